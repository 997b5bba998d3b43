"""The base of every layer of neurons, and the interface of modules that emit spikes."""

from collections.abc import MutableMapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spikediff.errors import UserError
from spikediff.neurons.dynamics import Dynamics, NeuronState, carry_nan


class UnitTrace(NamedTuple):
    """The membranes of a few neurons of the first image in a window.

    Attributes:
        u: Membrane that was compared with the threshold [T, K].
        v: Membrane before the window and after every spiking step [T + 1, K].
        v_threshold: The threshold.
        v_negative: Distance below zero at which a signed neuron takes a spike back, or None.
        strict: Whether a neuron stays silent at exactly the threshold.
    """

    u: Tensor
    v: Tensor
    v_threshold: float
    v_negative: float | None = None
    strict: bool = False


class SpikeEmitter(nn.Module):
    """A module whose output is spikes. Instruments find the neurons of a model by this type.

    Attributes:
        levels: D, the largest number of spikes that one element of the output represents.
    """

    levels: int = 1

    def spiking_steps(self, emitted: Tensor) -> int:
        """Return T, the number of spiking steps in the leading axis of an output."""
        raise NotImplementedError

    def unrolled(self, emitted: Tensor) -> Tensor:
        """Return an output as spikes of -1, 0 and 1, one step after another [T, B, ...]."""
        raise NotImplementedError

    def trace(self, current: Tensor, units: Tensor, before: NeuronState | None = None) -> UnitTrace:
        """Return the membranes of some neurons of the first image in a window of currents.

        The units [K] are indices into the flattened [C, H, W] or [C]. The window continues the
        state `before`; None means rest.
        """
        raise NotImplementedError

    def describe(self) -> str:
        """Return what the neurons are, in words."""
        raise NotImplementedError


class CountNeuron(SpikeEmitter):
    """Neurons that wait for the currents of their window and emit a spike count, 0..D, at once.

    `count = clip(round(potential), 0, D)`. Except at exact halves, this equals an
    integrate-and-fire neuron with threshold 1 and a soft reset that starts at `potential + 1/2` and
    takes D steps.
    """

    def potential(self, current: Tensor) -> Tensor:
        """Return the currents in units of a spike, biases included [B, C, H, W]."""
        raise NotImplementedError

    def spiking_steps(self, emitted: Tensor) -> int:
        """Return 1: a window is one step of counts."""
        return 1

    def unrolled(self, emitted: Tensor) -> Tensor:
        """Return counts [B, C, H, W] as binary spikes [D, B, C, H, W]."""
        return unroll(emitted, self.levels)

    def trace(self, current: Tensor, units: Tensor, before: NeuronState | None = None) -> UnitTrace:
        """Return the membranes of some neurons while they emit their counts, from rest."""
        count = self.forward(current[:1])[0].flatten()[units].float()  # [K]
        v = self.potential(current[:1])[0].flatten()[units].float() + 0.5
        # At a half, v may lie on the other side of the threshold.
        v = torch.where(count < self.levels, v.minimum(torch.nextafter(count + 1, count)), v)
        v = torch.where(count > 0, v.maximum(count), v)
        membranes = [v]
        for _ in range(self.levels):
            membranes.append(membranes[-1] - (membranes[-1] >= 1).to(v.dtype))
        return UnitTrace(torch.stack(membranes[:-1]), torch.stack(membranes), v_threshold=1.0)

    def describe(self) -> str:
        """Return what the neurons are, in words."""
        return f"{type(self).__name__}, up to {self.levels} spikes a window"


def unroll(counts: Tensor, levels: int) -> Tensor:
    """Return counts 0..D [...] as binary spikes [D, ...]: a neuron fires in its first steps."""
    steps = torch.arange(1, levels + 1, device=counts.device)
    spikes = (counts >= steps.view(-1, *[1] * counts.dim())).to(counts.dtype)
    return carry_nan(spikes, counts)


Memory = MutableMapping["NeuronLayer", Any]


class NeuronLayer(SpikeEmitter):
    """A layer of neurons that computes a window at once, or single steps. It keeps no state.

    Abstract. A neuron with its own dynamics defines `step` in differentiable torch; windows,
    streams, training, traces and exports follow from it. A neuron of the integrate-and-fire family
    is an `IntegrateAndFire`, which runs in compiled kernels.

    Args:
        dynamics: The neuron's constants, which guidance scales and norms read.

    Shape: currents [T, ...] -> spikes [T, ...].
    """

    def __init__(self, dynamics: Dynamics) -> None:
        super().__init__()
        self.dynamics = dynamics

    @property
    def membrane_dynamics(self) -> Dynamics:
        """The constants in the units of the membrane, for a neuron that scales its current."""
        return self.dynamics

    def forward(self, current: Tensor, memory: Memory | None = None) -> Tensor:
        """Return the spikes [T, ...] for the currents [T, ...] of one window.

        A streaming network passes a memory, its states by layer: the window continues from
        this layer's state in it (from rest if there is none yet) and stores the new state there.
        Without a memory the window starts from rest.
        """
        if memory is None:
            return self.window(current)
        spikes, memory[self] = self.run(current, memory.get(self))
        return spikes

    def step(self, current: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Return the spike and the state after one step.

        A state is a NamedTuple of tensors [...], the first of which is the membrane `v` after the
        reset; None starts from rest.
        """
        raise NotImplementedError

    def run(self, current: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Return the spikes [T, ...] and the state after them; None starts from rest."""
        check_window(current)
        spikes = []
        for x in current:
            spike, state = self.step(x, state)
            spikes.append(spike.to(current.dtype))
        return torch.stack(spikes), state

    def window(self, current: Tensor) -> Tensor:
        """Return the spikes [T, ...] of a window that starts from rest."""
        return self.run(current)[0]

    def membranes(self, current: Tensor, state: Any = None) -> tuple[Tensor, Tensor]:
        """Return u [T, ...] before the reset and v [T, ...] after it.

        A `step` returns only v, so u is shown at the threshold where the neuron fires.
        """
        before, after = [], []
        for x in current:
            spike, state = self.step(x, state)
            risen = state.v.clamp(min=self.membrane_dynamics.v_threshold)
            before.append(torch.where(spike > 0, risen, state.v))
            after.append(state.v)
        return torch.stack(before), torch.stack(after)

    def spiking_steps(self, emitted: Tensor) -> int:
        """Return T of a window of spikes [T, ...]."""
        return len(emitted)

    def unrolled(self, emitted: Tensor) -> Tensor:
        """Return a window of spikes as [T, B, ...]."""
        return _with_batch(emitted)

    def trace(self, current: Tensor, units: Tensor, before: Any = None) -> UnitTrace:
        """Return the membranes of some neurons of the first image, by the layer's own equations."""
        chosen = _with_batch(current)[:, 0].flatten(1)[:, units]  # [T, K]
        dynamics, state = self.membrane_dynamics, None
        if before is not None:
            state = before._make(None if x is None else _of_first(x, units) for x in before)
        first = dynamics.fresh_state(chosen[0]).v if state is None else state.v
        u, v = self.membranes(chosen, state)
        return UnitTrace(
            u,
            torch.cat([first[None], v]),
            dynamics.v_threshold,
            dynamics.v_negative,
            dynamics.strict_threshold,
        )

    def describe(self) -> str:
        """Return what the neurons are: 'LIF, decay 0.5, threshold 1, soft reset'."""
        kind = "soft" if self.dynamics.v_reset is None else "hard"
        threshold = f"threshold {self.dynamics.v_threshold:g}"
        return ", ".join([type(self).__name__, *self._leak(), threshold, f"{kind} reset"])

    def extra_repr(self) -> str:
        """Return the constants, for `print(model)`."""
        return repr(self.dynamics)

    def _leak(self) -> list[str]:
        return []


def check_window(current: Tensor) -> None:
    """Raise a `UserError` for currents without spiking steps, or that are not floating point."""
    if current.dim() == 0 or current.shape[0] == 0 or not current.is_floating_point():
        raise UserError(
            f"neuron: needs floating-point currents [T, ...] with T >= 1, got shape "
            f"{tuple(current.shape)} of {current.dtype}"
        )


def _of_first(state: Tensor, units: Tensor) -> Tensor:
    """Return some neurons of the first image, of a state [B, ...]."""
    return _with_batch(state[None])[0, 0].flatten()[units]


def _with_batch(window: Tensor) -> Tensor:
    """Return a window as [T, B, ...]; a plain [T] or [T, C] has one image."""
    return window if window.dim() > 2 else window.reshape(len(window), 1, -1)
