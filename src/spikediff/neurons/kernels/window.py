"""A neuron over a window that starts from rest, as an operator that torch can look into.

One operator (`torch.ops.spikediff.leaky_integrate_and_fire`), so that autograd, `torch.compile` and
`torch.export` see a node and not its T steps. Only its input is kept for the backward pass, which
computes the membranes again. IF is the neuron with decay 1.

An operator takes numbers, so a neuron's constants cross the border as one list of floats.
"""

from collections.abc import Sequence
from dataclasses import astuple
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from spikediff.neurons.dynamics import Decay, Dynamics
from spikediff.neurons.kernels import choice, reference
from spikediff.neurons.surrogate import SURROGATES

_KINDS = tuple(SURROGATES.values())


def has_operator(dynamics: Dynamics) -> bool:
    """Return whether the operator takes these constants: unsigned, with a known surrogate."""
    return dynamics.v_negative is None and type(dynamics.surrogate) in _KINDS


def to_constants(dynamics: Dynamics, decay: float = 0.0) -> tuple[float, ...]:
    """Return a neuron's constants as the operator takes them; a tensor of a decay comes extra."""
    if torch.compiler.is_compiling():  # Dynamo warns of a cache, which it cannot look into
        return _to_constants(dynamics, decay)
    return _remembered_constants(dynamics, decay)


def _to_constants(dynamics: Dynamics, decay: float) -> tuple[float, ...]:
    surrogate = dynamics.surrogate
    numbers = (
        decay,
        dynamics.v_threshold,
        dynamics.v_reset or 0.0,
        dynamics.v_rest if dynamics.v_init is None else dynamics.v_init,
        dynamics.v_reset is None,
        dynamics.decay_input,
        dynamics.strict_threshold,
        dynamics.detach_reset,
        _KINDS.index(type(surrogate)),
        *astuple(surrogate),  # type: ignore[call-overload]
    )
    return tuple(map(float, numbers))


_remembered_constants = lru_cache(maxsize=256)(_to_constants)


@lru_cache(maxsize=256)
def _from_constants(constants: tuple[float, ...]) -> tuple[float, Dynamics]:
    """Return the decay and the constants that `to_constants` wrote."""
    decay, threshold, v_reset, v_init, soft, decay_input, strict, detach, kind, *widths = constants
    dynamics = Dynamics(
        v_threshold=threshold,
        v_reset=None if soft else v_reset,
        v_init=v_init,
        surrogate=_KINDS[int(kind)](*widths),
        detach_reset=bool(detach),
        decay_input=bool(decay_input),
        strict_threshold=bool(strict),
    )
    return decay, dynamics


def _neuron(constants: Sequence[float], learnt: Tensor | None) -> tuple[Decay, Dynamics]:
    decay, dynamics = _from_constants(tuple(constants))
    return decay if learnt is None else learnt, dynamics


@torch.library.custom_op("spikediff::leaky_integrate_and_fire", mutates_args=())
def leaky_integrate_and_fire(
    current: Tensor, constants: Sequence[float], decay: Tensor | None
) -> Tensor:
    """Return the spikes [T, ...] of a window from rest.

    `constants` are those of `to_constants`; `decay` is 0-dim where it may be learnt, else None.
    """
    multiplier, dynamics = _neuron(constants, decay)
    kernel = choice.COMPILED.get(choice.kernel_for(current, dynamics))
    if kernel is not None:
        spikes, _ = kernel.forward(current, multiplier, dynamics, keep_last=False)
        return in_layout_of(current, spikes)
    state = dynamics.fresh_state(current[0])
    return reference.forward(current, state, multiplier, dynamics, keep_membrane=False)[0]


@torch.library.custom_op("spikediff::leaky_integrate_and_fire_backward", mutates_args=())
def leaky_integrate_and_fire_backward(
    current: Tensor, grad_spikes: Tensor, constants: Sequence[float], decay: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return dL/dI [T, ...] and dL/d(decay), 0-dim; the latter is 0 for a constant decay."""
    multiplier, dynamics = _neuron(constants, decay)
    kernel = choice.COMPILED.get(choice.kernel_for(current, dynamics))
    compute = reference.backward_of_window if kernel is None else kernel.backward
    grad, share = compute(current, grad_spikes, multiplier, dynamics, decay is not None)
    share = current.new_zeros(()) if decay is None else share.to(decay)
    return in_layout_of(current, grad), share


def in_layout_of(current: Tensor, result: Tensor) -> Tensor:
    """Return a result with the strides that the operator promises: those of `empty_like`."""
    if result.stride() == current.stride():  # without holes, so that `empty_like` has them too
        return result
    promised = torch.empty_like(current, device="meta").stride()
    return result if result.stride() == promised else torch.empty_like(current).copy_(result)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    current, ctx.constants, decay = inputs
    ctx.save_for_backward(current, decay)
    ctx.forced = choice.forced()


def _differentiate(ctx: Any, grad_spikes: Tensor) -> tuple[Tensor, None, Tensor | None]:
    current, decay = ctx.saved_tensors
    with choice.as_before(ctx.forced):
        grad, share = leaky_integrate_and_fire_backward(current, grad_spikes, ctx.constants, decay)
    return grad, None, None if decay is None else share


leaky_integrate_and_fire.register_fake(lambda current, *_: torch.empty_like(current))
leaky_integrate_and_fire.register_autograd(_differentiate, setup_context=_save)
leaky_integrate_and_fire_backward.register_fake(
    lambda current, _grad, _constants, decay: (
        torch.empty_like(current),
        current.new_empty(()) if decay is None else torch.empty_like(decay),
    )
)
