r"""The three equations of an integrate-and-fire neuron, each written once.

For a membrane $v$, an input current $I$ and the rest potential $v_{rest}$ (`v_reset` under a hard
reset, 0 under a soft one):

    charge   u[n] = v_rest + decay (v[n-1] - v_rest) + gain I[n]
    fire     s[n] = H(u[n] - v_threshold)                 H(0) = 1, or 0 (strict_threshold)
    reset    v[n] = (1 - s[n]) u[n] + s[n] v_reset        hard
             v[n] = u[n] - s[n] v_threshold               soft  (v_reset is None)

A membrane that is NaN or infinite emits NaN, so that a broken network is noticed.

`decay = 1, gain = 1` is the integrate-and-fire neuron; `decay = 1 - 1/tau` is the leaky one, whose
`gain` is `1/tau` with `decay_input` and 1 without.
"""

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from spikediff.errors import UserError, check_number, shown
from spikediff.neurons.surrogate import ATan, Surrogate


class NeuronState(NamedTuple):
    """The state of an integrate-and-fire neuron between two spiking steps.

    Attributes:
        v: Membrane after the reset, [...].
        net_spikes: Signed spikes emitted so far, [...]; only for a signed neuron.
    """

    v: Tensor
    net_spikes: Tensor | None = None


@dataclass(frozen=True)
class Dynamics:
    """The constants of a neuron layer.

    The other attributes are the arguments of `IF`.

    Attributes:
        decay_input: Whether the input is scaled by `1/tau`, as the membrane's pull to rest is.
        v_negative: Set for a signed neuron: it emits -1 at `u <= -v_negative`, if it has emitted
            more positive than negative spikes.
        strict_threshold: Whether the neuron stays silent at exactly `u == v_threshold`.
    """

    v_threshold: float = 1.0
    v_reset: float | None = 0.0
    v_init: float | None = None
    surrogate: Surrogate = ATan()  # noqa: RUF009 -- frozen, so sharing it is safe
    detach_reset: bool = False
    decay_input: bool = False
    v_negative: float | None = None
    strict_threshold: bool = False

    def __post_init__(self) -> None:
        """Refuse constants of a wrong type, and those that allow no rest."""
        for field in fields(self):
            value = getattr(self, field.name)
            symbolic = isinstance(value, torch.SymFloat)  # a weight of an exported program
            given = field.type is float or (field.type == float | None and value is not None)
            if given and not symbolic:
                check_number(f"neuron: {field.name}", value)
            if field.type is bool and not isinstance(value, bool):
                raise UserError(f"neuron: {field.name} = {shown(value)} must be true or false")
        if not callable(getattr(self.surrogate, "derivative", None)):
            raise UserError(f"neuron: surrogate = {shown(self.surrogate)} is not a surrogate")
        if not self.v_threshold > 0:
            raise UserError(f"neuron: v_threshold = {self.v_threshold} must be positive")
        if self.v_reset is not None and self.v_reset >= self.v_threshold:
            raise UserError(
                f"neuron: v_reset = {self.v_reset} must lie below v_threshold = {self.v_threshold}"
            )

    @property
    def v_rest(self) -> float:
        """The potential that the membrane leaks towards."""
        return 0.0 if self.v_reset is None else self.v_reset

    def fresh_state(self, like: Tensor) -> NeuronState:
        """Return the state before the first step, for a current `like` of shape [...].

        The membrane is at least float32: half precision would lose small currents.
        """
        dtype = torch.promote_types(like.dtype, torch.float32)
        rest = self.v_rest if self.v_init is None else self.v_init
        v = torch.full_like(like, rest, dtype=dtype)
        return NeuronState(v, None if self.v_negative is None else torch.zeros_like(v))


Decay = float | Tensor


def carry_nan(result: Tensor, x: Tensor) -> Tensor:
    """Return `result`, a comparison or a clamp of `x`, with NaN where `x` is NaN or infinite.

    Example:
        >>> x = torch.tensor([2.0, torch.inf, torch.nan])
        >>> carry_nan((x > 1.0).float(), x).tolist()
        [1.0, nan, nan]
    """
    return torch.add(result, x.detach(), alpha=0)  # 0 times infinity is NaN


def spike(z: Tensor, surrogate: Surrogate) -> Tensor:
    """Return H(z) with the surrogate's gradient, for use in a neuron's own `step`."""
    fired: Tensor = _Spike.apply(z, surrogate)  # type: ignore[no-untyped-call]
    return fired


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, surrogate: Surrogate) -> Tensor:
        ctx.save_for_backward(z)
        ctx.surrogate = surrogate
        return carry_nan((z >= 0).to(z.dtype), z)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.surrogate.derivative(ctx.saved_tensors[0]), None


def is_fused(decay: Decay, dynamics: Dynamics) -> bool:
    """Return whether a charge is `I + decay v` with a single rounding, as in every kernel."""
    if not isinstance(decay, float) or dynamics.decay_input:
        return False
    return decay == 1.0 or dynamics.v_rest == 0.0


def charge(v: Tensor, current: Tensor, decay: Decay, dynamics: Dynamics) -> Tensor:
    """Return the membrane u[n] after one step of integration, before any spike."""
    if isinstance(decay, float) and is_fused(decay, dynamics):
        return v + current if decay == 1.0 else torch.add(current, v, alpha=decay)
    leaked = dynamics.v_rest + decay * (v - dynamics.v_rest)
    if not dynamics.decay_input:
        return leaked + current
    return leaked + (1.0 - decay) * current.to(v.dtype)  # in half precision it would be rounded


def fire(u: Tensor, net_spikes: Tensor | None, dynamics: Dynamics) -> Tensor:
    """Return the spikes: 0 or 1, for a signed neuron also -1, and NaN where u is not finite."""
    reaches = torch.gt if dynamics.strict_threshold else torch.ge
    if torch.compiler.is_compiling():  # a program has no writing in place
        spikes = reaches(u, dynamics.v_threshold).to(u.dtype)
    else:
        spikes = reaches(u, dynamics.v_threshold, out=torch.empty_like(u))  # 0.0 or 1.0 at once
    spikes = carry_nan(spikes, u)
    if dynamics.v_negative is None or net_spikes is None:
        return spikes
    return spikes - ((u <= -dynamics.v_negative) & (net_spikes > 0)).to(u.dtype)


def reset(u: Tensor, spikes: Tensor, dynamics: Dynamics) -> Tensor:
    """Return the membrane v[n] that the next step starts from."""
    if dynamics.v_reset is None:
        return torch.sub(u, spikes, alpha=dynamics.v_threshold)
    kept = torch.addcmul(u, u, spikes, value=-1.0)  # exact: spikes are 0 or 1 under a hard reset
    return kept if dynamics.v_reset == 0.0 else torch.add(kept, spikes, alpha=dynamics.v_reset)


def spike_derivative(u: Tensor, net_spikes: Tensor | None, dynamics: Dynamics) -> Tensor:
    """Return the surrogate ds/du at the membranes u, for every threshold the neuron has."""
    slope = dynamics.surrogate.derivative(u - dynamics.v_threshold)
    if dynamics.v_negative is None or net_spikes is None:
        return slope
    negative = dynamics.surrogate.derivative(-u - dynamics.v_negative)
    return slope + negative * (net_spikes > 0)
