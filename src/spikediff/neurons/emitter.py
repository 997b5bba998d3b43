"""What an instrument may ask of any module whose output is spikes."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from spikediff.neurons.dynamics import NeuronState, carry_nan


class UnitTrace(NamedTuple):
    """What a few neurons of the first image did in a window.

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
        levels: D, the most spikes that one element of the output stands for.
    """

    levels: int = 1

    def spiking_steps(self, emitted: Tensor) -> int:
        """Return T, how many spiking steps the leading axis of an output holds."""
        raise NotImplementedError

    def unrolled(self, emitted: Tensor) -> Tensor:
        """Return an output as spikes of -1, 0 and 1, one step after another [T, B, ...]."""
        raise NotImplementedError

    def trace(self, current: Tensor, units: Tensor, before: NeuronState | None = None) -> UnitTrace:
        """Return the membranes of some neurons of the first image in a window of currents.

        The units [K] are places in the flattened [C, H, W] or [C]. The window continues the state
        `before`; None is rest.
        """
        raise NotImplementedError

    def describe(self) -> str:
        """Return what the neurons are, in words."""
        raise NotImplementedError


class CountNeuron(SpikeEmitter):
    """Neurons that wait for the currents of their window and emit a spike count, 0..D, at once.

    `count = clip(round(potential), 0, D)`. Spike by spike, that is an integrate-and-fire neuron
    with threshold 1 and a soft reset, which starts at `potential + 1/2` and takes D steps.
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
        v = self.potential(current[:1])[0].flatten()[units].float() + 0.5  # [K]
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
