"""A layer of a spiking network that normalises by the threshold: synapse, tdBN, neuron."""

from collections.abc import Callable

from torch import Tensor, nn

from spikediff.layers.threshold_norm import ThresholdNorm
from spikediff.layers.time import over_time
from spikediff.neurons import Memory, NeuronLayer


class SpikingLayer(nn.Module):
    r"""Spikes in, spikes out: $SN(tdBN(W s[n] + b))$ at every spiking step.

    Args:
        synapse: The linear part, of images or of vectors: `Conv2d`, `ConvTranspose2d`, `Linear`.
        channels: Channels of its currents.
        neuron: Makes the neuron layer, to whose threshold the norm scales.
        alpha: Gain of the norm.

    Shape: [T, B, ...] -> [T, B, ...].

    Example:
        >>> import torch
        >>> from spikediff.neurons import IF
        >>> SpikingLayer(nn.Linear(3, 2), 2, IF)(torch.ones(4, 5, 3)).shape
        torch.Size([4, 5, 2])

    Reference: Kamata et al., "Fully spiking variational autoencoder", AAAI 2022.
    """

    def __init__(
        self,
        synapse: nn.Module,
        channels: int,
        neuron: Callable[[], NeuronLayer],
        alpha: float = 1.0,
    ) -> None:
        super().__init__()
        self.synapse = synapse
        self.neuron = neuron()
        self.norm = ThresholdNorm(channels, alpha, self.neuron.dynamics.v_threshold)

    def forward(self, spikes: Tensor, memory: Memory | None = None) -> Tensor:
        """Return the spikes of a window.

        Args:
            spikes: [T, B, ...].
            memory: States by layer, where the window goes on from an earlier one; see
                `NeuronLayer`.
        """
        return self.fire(over_time(self.synapse, spikes), memory)

    def fire(self, current: Tensor, memory: Memory | None = None) -> Tensor:
        """Return the spikes that the synapse's currents [T, B, ...] cause."""
        spikes: Tensor = self.neuron(over_time(self.norm, current), memory)
        return spikes
