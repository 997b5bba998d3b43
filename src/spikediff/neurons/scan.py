"""A neuron over a whole spiking window: from rest (`window`), or from a state (`scan`).

One autograd node per layer instead of five recorded operations per step.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from spikediff.neurons.dynamics import Decay, Dynamics, NeuronState, reset
from spikediff.neurons.kernels import COMPILED, kernel_for, reference
from spikediff.neurons.kernels import window as operators
from spikediff.neurons.layer import check_window


class _Scan(torch.autograd.Function):
    """(current, v, net_spikes, decay) -> (spikes, v, net_spikes), differentiable but for counts."""

    @staticmethod
    def forward(
        ctx: Any,
        current: Tensor,
        v: Tensor,
        net_spikes: Tensor | None,
        decay: Decay,
        dynamics: Dynamics,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        state = NeuronState(v, net_spikes)
        spikes, last, membrane = reference.forward(current, state, decay, dynamics, True)
        ctx.decay_is_learnt = isinstance(decay, Tensor) and decay.requires_grad
        kept_current = current if ctx.decay_is_learnt and dynamics.decay_input else None
        learnt = decay if isinstance(decay, Tensor) else None
        ctx.save_for_backward(membrane, spikes, v, net_spikes, kept_current, learnt)
        ctx.constants = (decay if learnt is None else None, dynamics, current.dtype)
        if last.net_spikes is not None:
            ctx.mark_non_differentiable(last.net_spikes)
        return spikes, last.v, last.net_spikes

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_spikes: Tensor, grad_v: Tensor, _: Tensor | None
    ) -> tuple[Tensor, Tensor, None, Tensor | None, None]:
        membrane, spikes, v, net_spikes, current, learnt = ctx.saved_tensors
        constant, dynamics, dtype = ctx.constants
        decay = constant if learnt is None else learnt
        if net_spikes is not None:  # [...] before the first step -> [T, ...] before each step
            net_spikes = net_spikes + spikes.cumsum(0) - spikes
        grad_u, grad_v0 = reference.backward(
            grad_spikes, grad_v, membrane, spikes, net_spikes, decay, dynamics
        )
        grad_decay = None
        if ctx.decay_is_learnt:
            grad_decay = reference.grad_of_decay(grad_u, membrane, spikes, v, current, dynamics)
        grad_current = reference.to_current(grad_u, decay, dynamics)
        return grad_current.to(dtype), grad_v0, None, grad_decay, None


_as_operations: ContextVar[bool] = ContextVar("spikediff_as_operations", default=False)


@contextmanager
def as_operations() -> Iterator[None]:
    """Compute windows by torch's own operations, step by step, without our operators.

    A program traced inside needs only torch. Spikes are the same; there is no gradient.
    """
    token = _as_operations.set(True)
    try:
        yield
    finally:
        _as_operations.reset(token)


def takes_operations() -> bool:
    """Return whether `as_operations` is in force; Dynamo reads no context variable."""
    return not torch.compiler.is_dynamo_compiling() and _as_operations.get()


def scan(
    current: Tensor, dynamics: Dynamics, decay: Decay = 1.0, state: NeuronState | None = None
) -> tuple[Tensor, NeuronState]:
    """Return a window's spikes [T, ...], of the current's dtype, and the state after the last step.

    The decay multiplies the membrane at every step; a 0-dim tensor may carry a gradient. Without a
    state the window starts from rest.

    Example:
        >>> spikes, state = scan(torch.tensor([0.6, 0.6, 0.6]), Dynamics())
        >>> spikes.tolist(), round(state.v.item(), 3)
        ([0.0, 1.0, 0.0], 0.6)
    """
    check_window(current)
    first = dynamics.fresh_state(current[0]) if state is None else state
    if takes_operations():
        spiked, _, states = zip(*reference.steps(current, first, decay, dynamics), strict=True)
        return torch.stack(spiked).to(current.dtype), states[-1]
    learnt = isinstance(decay, Tensor) and decay.requires_grad
    if torch.is_grad_enabled() and (current.requires_grad or first.v.requires_grad or learnt):
        spikes, v, net_spikes = _Scan.apply(  # type: ignore[no-untyped-call]
            current, *first, decay, dynamics
        )
        return spikes, NeuronState(v, net_spikes)
    compiling = torch.compiler.is_compiling()  # a compiler sees no further than the reference
    kernel = None if compiling else COMPILED.get(kernel_for(current, dynamics))
    if kernel is not None:
        spikes, v_last = kernel.forward(current, decay, dynamics, first.v)
        assert v_last is not None
        return spikes, NeuronState(v_last)
    spikes, last, _ = reference.forward(current, first, decay, dynamics, False)
    return spikes, last


def window(current: Tensor, dynamics: Dynamics, decay: Decay = 1.0) -> Tensor:
    """Return the spikes of `scan` from rest, without a state after them."""
    check_window(current)
    if takes_operations() or not operators.has_operator(dynamics):
        return scan(current, dynamics, decay)[0]
    learnt = decay if isinstance(decay, Tensor) else None
    constants = operators.to_constants(dynamics, 0.0 if isinstance(decay, Tensor) else decay)
    spikes: Tensor = operators.leaky_integrate_and_fire(current, constants, learnt)
    return spikes


@torch.no_grad()
def membranes(
    current: Tensor, dynamics: Dynamics, decay: Decay = 1.0, state: NeuronState | None = None
) -> tuple[Tensor, Tensor]:
    """Return u [T, ...], which is compared with the threshold, and v [T, ...] after the reset.

    The arguments are those of `scan`; there is no gradient.
    """
    check_window(current)
    start = dynamics.fresh_state(current[0]) if state is None else state
    spikes, _, u = reference.forward(current, start, decay, dynamics, keep_membrane=True)
    assert u is not None
    return u, reset(u, spikes.to(u.dtype), dynamics)
