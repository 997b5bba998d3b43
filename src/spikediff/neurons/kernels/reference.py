"""The scan over spiking steps in plain torch: runs everywhere, defines the right answer.

Autograd records nothing here. The forward pass keeps the membranes u (one tensor of the current's
size); the backward pass walks the same recurrence in reverse.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from spikediff.neurons.dynamics import (
    Decay,
    Dynamics,
    NeuronState,
    carry_nan,
    charge,
    fire,
    reset,
    spike_derivative,
)


def steps(
    current: Tensor, state: NeuronState, decay: Decay, dynamics: Dynamics
) -> Iterator[tuple[Tensor, Tensor, NeuronState]]:
    """Yield the spikes, the membranes u and the state after them, step by step [...]."""
    v, net_spikes = state
    for step in current:
        u = charge(v, step, decay, dynamics)
        spikes = fire(u, net_spikes, dynamics)
        v = reset(u, spikes, dynamics)
        net_spikes = None if net_spikes is None else net_spikes + spikes
        yield spikes, u, NeuronState(v, net_spikes)


def forward(
    current: Tensor, state: NeuronState, decay: Decay, dynamics: Dynamics, keep_membrane: bool
) -> tuple[Tensor, NeuronState, Tensor | None]:
    """Return the spikes of a window [T, ...], the state after it, and u [T, ...] or None.

    The state's tensors are [...], in the membrane's precision. The backward pass needs u.
    """
    spikes = torch.empty_like(current)
    membrane = torch.empty_like(current, dtype=state.v.dtype) if keep_membrane else None
    for n, (spike, u, after) in enumerate(steps(current, state, decay, dynamics)):
        spikes[n], state = spike, after
        if membrane is not None:
            membrane[n] = u
    return spikes, state, membrane


def backward(
    grad_spikes: Tensor,
    grad_v: Tensor,
    membrane: Tensor,
    spikes: Tensor,
    net_spikes: Tensor | None,
    decay: Decay,
    dynamics: Dynamics,
) -> tuple[Tensor, Tensor]:
    """Return dL/du [T, ...] and dL/dv of the state before the first step [...].

    With $g = ds/du$ and the reset's own derivative $dv/du$:

        dL/du[n]   = g[n] dL/ds[n] + dv/du[n] dL/dv[n]
        dL/dv[n-1] = decay dL/du[n]

    `grad_v` is dL/dv of the state after the last step [...], `membrane` is u [T, ...]. A signed
    neuron has net spikes before each step [T, ...].
    """
    idle = isinstance(decay, float) and decay == 1.0
    grad_u = torch.empty_like(membrane)
    for n in range(membrane.shape[0] - 1, -1, -1):  # a step at a time stays in the cache
        slope = spike_derivative(
            membrane[n], None if net_spikes is None else net_spikes[n], dynamics
        )
        left = _reset_derivative(membrane[n], spikes[n].to(slope.dtype), slope, dynamics)
        torch.addcmul(slope.mul_(grad_spikes[n]), left, grad_v, out=grad_u[n])
        grad_v = grad_u[n] if idle else grad_u[n] * decay
    return grad_u, grad_v


def backward_of_window(
    current: Tensor, grad_spikes: Tensor, decay: Decay, dynamics: Dynamics, with_decay: bool
) -> tuple[Tensor, Tensor]:
    """Return dL/dI and dL/d(decay) of a window from rest, as `choice.Kernel.backward` does."""
    state = dynamics.fresh_state(current[0])
    spikes, _, membrane = forward(current, state, decay, dynamics, keep_membrane=True)
    assert membrane is not None
    nothing = torch.zeros_like(state.v)
    grad_u, _ = backward(grad_spikes, nothing, membrane, spikes, None, decay, dynamics)
    shared = current if dynamics.decay_input else None
    grad_decay = grad_u.new_zeros(())
    if with_decay:
        grad_decay = grad_of_decay(grad_u, membrane, spikes, state.v, shared, dynamics)
    return to_current(grad_u, decay, dynamics).to(current.dtype), grad_decay


def to_current(grad_u: Tensor, decay: Decay, dynamics: Dynamics) -> Tensor:
    """Return dL/dI for dL/du: times the gain of the input."""
    return grad_u * (1.0 - decay) if dynamics.decay_input else grad_u


def grad_of_decay(
    grad_u: Tensor,
    membrane: Tensor,
    spikes: Tensor,
    v: Tensor,
    current: Tensor | None,
    dynamics: Dynamics,
) -> Tensor:
    """Return dL/d(decay) = sum dL/du[n] (v[n-1] - v_rest - I[n]), I only where it decays too."""
    before = torch.cat([v[None], reset(membrane[:-1], spikes[:-1], dynamics)])  # v[n-1], [T, ...]
    du_ddecay = before - dynamics.v_rest
    if current is not None:
        du_ddecay = du_ddecay - current
    return (grad_u * du_ddecay).sum()


def _reset_derivative(u: Tensor, spikes: Tensor, slope: Tensor, dynamics: Dynamics) -> Tensor:
    """Return dv/du [...]: what is left of the membrane, and the path through the spike."""
    if dynamics.v_reset is None:
        kept = carry_nan(torch.ones_like(u), u)
        return kept if dynamics.detach_reset else kept.sub_(slope, alpha=dynamics.v_threshold)
    kept = 1.0 - spikes
    return kept if dynamics.detach_reset else kept.addcmul_(dynamics.v_reset - u, slope)
