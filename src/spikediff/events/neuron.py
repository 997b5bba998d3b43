"""A neuron layer that emits its spikes as bits."""

import torch
from torch import Tensor, nn

from spikediff.events.packed import PackedSpikes, empty_words, window_of
from spikediff.neurons import IF, LIF, Dynamics, IntegrateAndFire, Memory, ParametricLIF
from spikediff.neurons.kernels import native

# With fewer channels on more pixels, gathering lists costs more than their synapses save; on few
# pixels dense convolutions are slow, too (docs/performance.md).
FEWEST_CHANNELS, FEW_PIXELS = 48, 64


class PackedNeuron(nn.Module):
    """A neuron layer of images that emits `PackedSpikes`.

    Inputs that are not finite float32 windows of images starting from rest (the neurons of a
    timestep embedding, a streamed step), or that have few channels, take the ordinary path.

    Args:
        neuron: The layer; its constants are read at every call.

    Shape: currents [T, B, C, H, W] -> spikes of that shape.
    """

    def __init__(self, neuron: IntegrateAndFire) -> None:
        super().__init__()
        self.neuron = neuron

    @property
    def dynamics(self) -> Dynamics:
        """The neuron's constants."""
        return self.neuron.dynamics

    def forward(self, current: Tensor, memory: Memory | None = None) -> PackedSpikes | Tensor:
        """Return the spikes; `memory` as in `spikediff.neurons.NeuronLayer.forward`."""
        images = current.dim() == 5 and current.dtype == torch.float32
        images = images and _pays(*current.shape[2:])
        if memory is not None or not images or not native.suits(current, self.dynamics):
            spikes: Tensor = self.neuron(current, memory)
            return spikes
        last = current.detach().movedim(2, -1).contiguous()  # [T, B, H, W, C]
        words, pixels = empty_words(*current.shape), last.flatten(1, 3)  # [T, B*H*W, C]
        active = native.forward_packed(pixels, words, self.neuron.decay, self.dynamics)
        if active < 0:
            dense: Tensor = self.neuron(current)
            return dense
        return window_of(words, current.shape[2], active)


def _pays(channels: int, height: int, width: int) -> bool:
    return channels >= FEWEST_CHANNELS or height * width <= FEW_PIXELS


def can_be_packed(module: nn.Module) -> bool:
    """Return whether `PackedNeuron` supports a module: an unsigned neuron of this library."""
    return type(module) in (IF, LIF, ParametricLIF)
