"""A neuron over a window that starts from rest, as operators that torch can look into.

One operator a neuron (`torch.ops.spikediff.*`), so that autograd, `torch.compile` and
`torch.export` see a node and not its T steps. Nothing but its input is kept for the backward pass:
the membranes are computed again.

An operator takes numbers and names, so a `Dynamics` is spelled out at the border.
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

NAMES = {surrogate: name for name, surrogate in SURROGATES.items()}


def can_be_spelled(dynamics: Dynamics) -> bool:
    """Return whether an operator can take these constants: unsigned, with a known surrogate."""
    return dynamics.v_negative is None and type(dynamics.surrogate) in NAMES


@lru_cache(maxsize=256)
def spelled(dynamics: Dynamics) -> tuple[Any, ...]:
    """Return a neuron's constants as the operators take them."""
    surrogate = dynamics.surrogate
    return (
        dynamics.v_threshold,
        dynamics.v_reset,
        dynamics.v_init,
        dynamics.decay_input,
        dynamics.strict_threshold,
        dynamics.detach_reset,
        NAMES[type(surrogate)],
        tuple(map(float, astuple(surrogate))),  # type: ignore[call-overload]
    )


def _read(
    v_threshold: float,
    v_reset: float | None,
    v_init: float | None,
    decay_input: bool,
    strict_threshold: bool,
    detach_reset: bool,
    surrogate: str,
    widths: Sequence[float],
) -> Dynamics:
    """Return the constants that `spelled` wrote."""
    constants = (v_threshold, v_reset, v_init, decay_input, strict_threshold, detach_reset)
    return _made(*constants, surrogate, tuple(widths))


@lru_cache(maxsize=256)
def _made(
    v_threshold: float,
    v_reset: float | None,
    v_init: float | None,
    decay_input: bool,
    strict_threshold: bool,
    detach_reset: bool,
    surrogate: str,
    widths: tuple[float, ...],
) -> Dynamics:
    made = SURROGATES[surrogate](*widths)
    return Dynamics(
        v_threshold,
        v_reset,
        v_init,
        made,
        detach_reset,
        decay_input,
        strict_threshold=strict_threshold,
    )


@torch.library.custom_op("spikediff::leaky_integrate_and_fire", mutates_args=())
def leaky_integrate_and_fire(
    current: Tensor,
    decay: float,
    v_threshold: float,
    v_reset: float | None,
    v_init: float | None,
    decay_input: bool,
    strict_threshold: bool,
    detach_reset: bool,
    surrogate: str,
    widths: Sequence[float],
) -> Tensor:
    """Return the spikes [T, ...] for the currents [T, ...]; IF is the neuron with decay = 1."""
    constants = (v_threshold, v_reset, v_init, decay_input, strict_threshold, detach_reset)
    return _forward(current, decay, _read(*constants, surrogate, widths))


@torch.library.custom_op("spikediff::leaky_integrate_and_fire_backward", mutates_args=())
def leaky_integrate_and_fire_backward(
    current: Tensor,
    grad_spikes: Tensor,
    decay: float,
    v_threshold: float,
    v_reset: float | None,
    v_init: float | None,
    decay_input: bool,
    strict_threshold: bool,
    detach_reset: bool,
    surrogate: str,
    widths: Sequence[float],
) -> Tensor:
    """Return dL/dI [T, ...]."""
    constants = (v_threshold, v_reset, v_init, decay_input, strict_threshold, detach_reset)
    dynamics = _read(*constants, surrogate, widths)
    return _backward(current, grad_spikes, decay, dynamics, False)[0]


@torch.library.custom_op("spikediff::parametric_leaky_integrate_and_fire", mutates_args=())
def parametric_leaky_integrate_and_fire(
    current: Tensor,
    decay: Tensor,
    v_threshold: float,
    v_reset: float | None,
    v_init: float | None,
    decay_input: bool,
    strict_threshold: bool,
    detach_reset: bool,
    surrogate: str,
    widths: Sequence[float],
) -> Tensor:
    """Return the spikes [T, ...]; the decay is a 0-dim tensor that may be learnt."""
    constants = (v_threshold, v_reset, v_init, decay_input, strict_threshold, detach_reset)
    return _forward(current, decay, _read(*constants, surrogate, widths))


@torch.library.custom_op("spikediff::parametric_leaky_integrate_and_fire_backward", mutates_args=())
def parametric_leaky_integrate_and_fire_backward(
    current: Tensor,
    grad_spikes: Tensor,
    decay: Tensor,
    v_threshold: float,
    v_reset: float | None,
    v_init: float | None,
    decay_input: bool,
    strict_threshold: bool,
    detach_reset: bool,
    surrogate: str,
    widths: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """Return dL/dI [T, ...] and dL/d(decay), 0-dim."""
    constants = (v_threshold, v_reset, v_init, decay_input, strict_threshold, detach_reset)
    dynamics = _read(*constants, surrogate, widths)
    return _backward(current, grad_spikes, decay, dynamics, True)


def _forward(current: Tensor, decay: Decay, dynamics: Dynamics) -> Tensor:
    kernel = choice.COMPILED.get(choice.kernel_for(current, dynamics))
    if kernel is not None:
        spikes, _ = kernel.forward(current, decay, dynamics, keep_last=False)
        return in_layout_of(current, spikes)
    state = dynamics.fresh_state(current[0])
    return reference.forward(current, state, decay, dynamics, keep_membrane=False)[0]


def _backward(
    current: Tensor,
    grad_spikes: Tensor,
    decay: Decay,
    dynamics: Dynamics,
    with_decay: bool,
) -> tuple[Tensor, Tensor]:
    """Return dL/dI [T, ...] and dL/d(decay), 0-dim; the latter is 0 where it is not asked for."""
    kernel = choice.COMPILED.get(choice.kernel_for(current, dynamics))
    if kernel is not None:
        grad, share = kernel.backward(current, grad_spikes, decay, dynamics, with_decay)
        share = share.to(decay) if isinstance(decay, Tensor) else share
    else:
        grad, share = reference.backward_of_window(
            current, grad_spikes, decay, dynamics, with_decay
        )
    return in_layout_of(current, grad), share


def in_layout_of(current: Tensor, result: Tensor) -> Tensor:
    """Return a result with the strides that `torch.compile` was told of: those of `empty_like`."""
    if result.stride() == current.stride():  # without holes, so that `empty_like` has them too
        return result
    promised = torch.empty_like(current, device="meta").stride()
    return result if result.stride() == promised else torch.empty_like(current).copy_(result)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    current, decay, *ctx.constants = inputs
    tensors = (current, decay) if isinstance(decay, Tensor) else (current,)
    ctx.save_for_backward(*tensors)
    ctx.decay = None if isinstance(decay, Tensor) else decay
    ctx.forced = choice.forced()


def _differentiate(ctx: Any, grad_spikes: Tensor) -> tuple[Any, ...]:
    with choice.as_before(ctx.forced):
        return _gradients(ctx, grad_spikes)


def _gradients(ctx: Any, grad_spikes: Tensor) -> tuple[Any, ...]:
    rest = [None] * len(ctx.constants)
    if ctx.decay is None:
        current, decay = ctx.saved_tensors
        grads = parametric_leaky_integrate_and_fire_backward(
            current, grad_spikes, decay, *ctx.constants
        )
        return *grads, *rest
    (current,) = ctx.saved_tensors
    grad = leaky_integrate_and_fire_backward(current, grad_spikes, ctx.decay, *ctx.constants)
    return grad, None, *rest


for operator in (leaky_integrate_and_fire, parametric_leaky_integrate_and_fire):
    operator.register_fake(lambda current, *_: torch.empty_like(current))
    operator.register_autograd(_differentiate, setup_context=_save)
leaky_integrate_and_fire_backward.register_fake(lambda current, *_: torch.empty_like(current))
parametric_leaky_integrate_and_fire_backward.register_fake(
    lambda current, _grad, decay, *__: (torch.empty_like(current), torch.empty_like(decay))
)
