"""The integrate-and-fire family: neurons that differ in their decay and their constants."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spikediff.errors import UserError, check_number
from spikediff.neurons.dynamics import Decay, Dynamics, NeuronState
from spikediff.neurons.layer import NeuronLayer
from spikediff.neurons.scan import membranes, scan, window
from spikediff.neurons.surrogate import Surrogate, make_surrogate

SurrogateSpec = str | Mapping[str, Any] | Surrogate


class IntegrateAndFire(NeuronLayer):
    """A layer of neurons with the three equations of `spikediff.neurons.dynamics`.

    A window is one autograd node, computed by a compiled kernel if there is one.
    """

    @property
    def decay(self) -> Decay:
        """Multiplier of the membrane per spiking step; 1 is no leak."""
        return 1.0

    def window(self, current: Tensor) -> Tensor:
        """Return the spikes [T, ...] of a window that starts from rest."""
        return window(current, self.dynamics, self.decay)

    def step(self, current: Tensor, state: NeuronState | None = None) -> tuple[Tensor, NeuronState]:
        """Return the spike and the state after one step, for a current [...]; None starts fresh."""
        spikes, state = self.run(current[None], state)
        return spikes[0], state

    def run(self, current: Tensor, state: NeuronState | None = None) -> tuple[Tensor, NeuronState]:
        """Return the spikes [T, ...] and the state after them; None starts from rest."""
        return scan(current, self.dynamics, self.decay, state)

    def membranes(self, current: Tensor, state: NeuronState | None = None) -> tuple[Tensor, Tensor]:
        """Return u [T, ...], which is compared with the threshold, and v [T, ...] after reset."""
        return membranes(current, self.dynamics, self.decay, state)

    def extra_repr(self) -> str:
        """Return the constants, for `print(model)`."""
        return f"decay={torch.as_tensor(self.decay).item():g}, {super().extra_repr()}"

    def _leak(self) -> list[str]:
        decay = torch.as_tensor(self.decay).item()
        return ["no leak" if decay == 1 else f"decay {decay:.3g}"]


class IF(IntegrateAndFire):
    """A layer of integrate-and-fire neurons: `u[n] = v[n-1] + I[n]` (SDDPM's neuron).

    Args:
        v_threshold: Firing threshold; fires at `u >= v_threshold`.
        v_reset: Potential after a spike; None for the soft reset (`u - v_threshold`).
        surrogate: Name, mapping or object; see `make_surrogate`.
        detach_reset: Whether the gradient ignores the path through the reset.
        v_init: Initial membrane; None for the rest potential.

    Example:
        >>> import torch
        >>> IF()(torch.tensor([0.5, 0.5, 2.0])).tolist()
        [0.0, 1.0, 1.0]

    Reference: Cao et al., "Spiking denoising diffusion probabilistic models", WACV 2024.
    """

    def __init__(
        self,
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        surrogate: SurrogateSpec = "atan",
        detach_reset: bool = False,
        v_init: float | None = None,
    ) -> None:
        super().__init__(
            Dynamics(v_threshold, v_reset, v_init, make_surrogate(surrogate), detach_reset)
        )


class LIF(IntegrateAndFire):
    """A layer of leaky neurons (`spikediff.neurons.dynamics`); see `IF` for the other arguments.

    Args:
        tau: Membrane time constant in spiking steps, at least 1; 2.0 if neither `tau` nor `decay`
            is given.
        decay: The multiplier instead of the time constant, in [0, 1].
        decay_input: Whether the input is also scaled by `1/tau`.
        strict_threshold: Whether it fires only at `u > v_threshold` (FSVAE, FSDDIM).

    Example:
        >>> import torch
        >>> LIF(tau=2.0)(torch.tensor([1.5, 1.5, 1.5])).tolist()
        [0.0, 1.0, 0.0]
    """

    def __init__(
        self,
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        surrogate: SurrogateSpec = "atan",
        detach_reset: bool = False,
        tau: float | None = None,
        decay: float | None = None,
        decay_input: bool = True,
        v_init: float | None = None,
        strict_threshold: bool = False,
    ) -> None:
        surrogate = make_surrogate(surrogate)
        super().__init__(
            Dynamics(
                v_threshold,
                v_reset,
                v_init,
                surrogate,
                detach_reset,
                decay_input,
                strict_threshold=strict_threshold,
            )
        )
        self._decay = _decay_of(tau, decay)

    @property
    def decay(self) -> float:
        """`1 - 1/tau`."""
        return self._decay


def _decay_of(tau: float | None, decay: float | None) -> float:
    """Return the membrane multiplier `1 - 1/tau` of a time constant, or the one given."""
    if decay is not None and tau is not None:
        raise UserError(f"LIF: give tau = {tau} or decay = {decay}, not both")
    if decay is not None:
        check_number("LIF: decay", decay, 0, 1)
        return float(decay)
    tau = 2.0 if tau is None else tau
    check_number("LIF: tau", tau, 1)
    return 1.0 - 1.0 / tau


class ParametricLIF(IntegrateAndFire):
    r"""A layer of leaky neurons that share one learned time constant, $1/\tau = \sigma(w)$.

    The membrane follows `LIF`, whose arguments it takes; the gradient reaches w through the decay
    (and, with `decay_input`, through the gain).

    Args:
        init_tau: Time constant before training, in spiking steps, above 1.

    Example:
        >>> neuron = ParametricLIF(init_tau=2.0)
        >>> neuron(torch.tensor([1.5, 1.5, 1.5])).tolist()
        [0.0, 1.0, 0.0]

    Reference: Fang et al., "Incorporating learnable membrane time constant", ICCV 2021.
    """

    def __init__(
        self,
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        surrogate: SurrogateSpec = "atan",
        detach_reset: bool = False,
        init_tau: float = 2.0,
        decay_input: bool = True,
        v_init: float | None = None,
    ) -> None:
        check_number("ParametricLIF: init_tau", init_tau, above=1)
        surrogate = make_surrogate(surrogate)
        super().__init__(
            Dynamics(v_threshold, v_reset, v_init, surrogate, detach_reset, decay_input)
        )
        self.w = nn.Parameter(torch.tensor(-math.log(init_tau - 1.0)))

    @property
    def decay(self) -> Tensor:
        """The membrane multiplier `1 - sigmoid(w)`, a 0-dim tensor with a gradient."""
        return 1.0 - torch.sigmoid(self.w)


class SignedIF(IntegrateAndFire):
    """A layer of IF neurons with ternary spikes {-1, 0, 1} and a soft reset.

    It emits -1 at `u <= -v_negative`, but only while it has emitted more positive than negative
    spikes: the sum over the window stays non-negative, as the ReLU that it replaces does.

    Args:
        v_threshold: Threshold of the positive spike, and the amount that either spike resets by.
        v_negative: Distance below zero at which a spike is taken back.
        surrogate: As in `IF`.
        detach_reset: As in `IF`.
        v_init: Initial membrane; None for half the threshold, so that the spike count is the
            rounded input instead of its floor.

    Example:
        >>> import torch
        >>> SignedIF()(torch.tensor([0.6, -0.8, 0.0])).tolist()
        [1.0, -1.0, 0.0]

    Reference: Hu et al., "Fast-SNN", IEEE TPAMI 2023; ANN-to-SNN conversion of SDM, section 6.
    """

    def __init__(
        self,
        v_threshold: float = 1.0,
        v_negative: float = 1e-3,
        surrogate: SurrogateSpec = "atan",
        detach_reset: bool = False,
        v_init: float | None = None,
    ) -> None:
        check_number("SignedIF: v_threshold", v_threshold, above=0)
        check_number("SignedIF: v_negative", v_negative, 0)
        super().__init__(
            Dynamics(
                v_threshold=v_threshold,
                v_reset=None,
                v_init=v_threshold / 2 if v_init is None else v_init,
                surrogate=make_surrogate(surrogate),
                detach_reset=detach_reset,
                v_negative=v_negative,
            )
        )
