"""One layer of a feed-forward spiking network: synapse, norm, neuron."""

from collections.abc import Callable

from torch import Tensor, nn

from spikediff.layers.norm import ThresholdNorm, fold_norm
from spikediff.layers.normed_neuron import fire_normed
from spikediff.layers.time import over_time
from spikediff.neurons import Memory, NeuronLayer


class SpikingLayer(nn.Module):
    r"""Spikes in, spikes out: $SN(BN(W s[n] + b))$ at every spiking step.

    Args:
        synapse: The linear part, of images or of vectors: `Conv2d`, `ConvTranspose2d`, `Linear`.
        norm: The norm of its currents; the statistics are joint over time and batch.
        neuron: The neuron layer.

    Shape: [T, B, ...] -> spikes [T, B, ...].

    Example:
        >>> import torch
        >>> from spikediff import LIF
        >>> synapse = nn.ConvTranspose2d(2, 3, 2, stride=2)
        >>> layer = SpikingLayer(synapse, nn.BatchNorm2d(3), LIF())
        >>> layer(torch.ones(4, 1, 2, 5, 5)).shape
        torch.Size([4, 1, 3, 10, 10])
        >>> layer.of_constant(torch.ones(1, 2, 5, 5), spiking_steps=4).shape
        torch.Size([4, 1, 3, 10, 10])
    """

    def __init__(self, synapse: nn.Module, norm: nn.Module, neuron: nn.Module) -> None:
        super().__init__()
        self.synapse = synapse
        self.norm = norm
        self.neuron = neuron

    def forward(self, spikes: Tensor, memory: Memory | None = None) -> Tensor:
        """Return the spikes of a window [T, B, ...]; `memory` as in `NeuronLayer.forward`."""
        return self.fire(over_time(self.synapse, spikes), memory)

    def of_constant(self, x: Tensor, spiking_steps: int) -> Tensor:
        """Return the spikes for x [B, ...], the same at every step; W x is computed once."""
        current = self.synapse(x)
        return self.fire(current.expand(spiking_steps, *current.shape))

    def fire(self, current: Tensor, memory: Memory | None = None) -> Tensor:
        """Return the spikes that the synapse's currents [T, B, ...] cause."""
        return fire_normed(self.neuron, self.norm, current, memory=memory)

    def fold_norms(self) -> None:
        """Fold the norm into the synapse."""
        fold_norm(self, "synapse")


def threshold_layer(
    synapse: nn.Module, channels: int, neuron: Callable[[], NeuronLayer], alpha: float = 1.0
) -> SpikingLayer:
    """Return a layer whose norm scales to the threshold of its neurons (tdBN), as FSVAE's.

    Reference: Kamata et al., "Fully spiking variational autoencoder", AAAI 2022.
    """
    made = neuron()
    return SpikingLayer(synapse, ThresholdNorm(channels, alpha, made.dynamics.v_threshold), made)
