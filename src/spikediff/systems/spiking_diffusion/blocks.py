"""The parts of a VQ-SVAE: encoder, feature of its spikes, spike generator and decoder.

Liu et al., section 2.2; sizes from the released code.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spikediff.layers import Neuron, SpikingLayer, over_time
from spikediff.layers.batch_invariant import elementwise
from spikediff.layers.coding import (
    decay_weights,
    rate_and_membrane,
    rate_and_potential,
    weighted_sum,
)
from spikediff.layers.conv import doubling_convs, halving_convs
from spikediff.layers.norm import BatchNorm2d


class SpikingEncoder(nn.Module):
    """Convolutions of stride 2, then one of 1x1.

    Shape: images [B, C_in, H, W] -> spikes [T, B, C, h, w].
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        out_channels: int,
        spiking_steps: int,
        neuron: Neuron,
    ) -> None:
        super().__init__()
        self.spiking_steps = spiking_steps
        convs = [*halving_convs([in_channels, *widths]), nn.Conv2d(widths[-1], out_channels, 1)]
        self.layers = _spiking_layers(convs, neuron)

    def forward(self, images: Tensor) -> Tensor:
        """Return the spikes of the last layer."""
        first: SpikingLayer = self.layers[0]  # type: ignore[assignment]
        spikes = first.of_constant(images, self.spiking_steps)
        for layer in self.layers[1:]:
            spikes = layer(spikes)
        return spikes


FEATURES = {
    "paper": "share of the firing rate, rest postsynaptic potential; both normalised",
    "released": "firing rate and unnormalised membrane read-out, by a factor without bounds",
}


class SpikeFeature(nn.Module):
    """Spikes [T, B, C, h, w] -> features [B, C, h, w], by a mixture that is learnt.

    "paper" mixes rate and potential by `sigmoid(mixture)`, "released" rate and membrane by
    `mixture` itself. Either way the mixture is even at first.
    """

    weights: Tensor

    def __init__(self, kind: str, spiking_steps: int, decay: float, tau_syn: float) -> None:
        super().__init__()
        self.bounded = kind == "paper"
        self.tau_syn = tau_syn
        self.mixture = nn.Parameter(torch.tensor(0.0 if self.bounded else 0.5))
        if not self.bounded:
            self.register_buffer("weights", decay_weights(spiking_steps, decay).float())

    def forward(self, spikes: Tensor) -> Tensor:
        """Return the features."""
        if self.bounded:
            return rate_and_potential(spikes, self.mixture.sigmoid(), self.tau_syn)
        return rate_and_membrane(spikes, self.mixture, self.weights)


class SpikeGenerator(nn.Module):
    """The adaptive spike generator (ASG): features [B, C, h, w] -> spikes [T, B, C, h, w]."""

    def __init__(self, channels: int, spiking_steps: int, neuron: Neuron) -> None:
        super().__init__()
        self.spiking_steps = spiking_steps
        self.layer = SpikingLayer(nn.Conv2d(channels, channels, 1), BatchNorm2d(channels), neuron())

    def forward(self, features: Tensor) -> Tensor:
        """Return the spikes of a neuron layer that sees the features at every step."""
        spikes: Tensor = self.layer.of_constant(features, self.spiking_steps)
        return spikes


class SpikingDecoder(nn.Module):
    """Transposed convolutions of stride 2, one of stride 1, then the membrane read-out.

    Shape: spikes [T, B, C, h, w] -> images [B, C_out, H, W] between -1 and 1.
    """

    weights: Tensor

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        out_channels: int,
        weights: Tensor,
        neuron: Neuron,
    ) -> None:
        super().__init__()
        self.layers = _spiking_layers(doubling_convs([in_channels, *widths]), neuron)
        self.last = nn.ConvTranspose2d(widths[-1], out_channels, 3, padding=1)
        self.register_buffer("weights", weights)  # of the steps in the read-out

    def forward(self, spikes: Tensor) -> Tensor:
        r"""Return $\tanh(\sum_n w_n y[n])$ of the last currents y."""
        for layer in self.layers:
            spikes = layer(spikes)
        return elementwise(torch.tanh, weighted_sum(over_time(self.last, spikes), self.weights))


def _spiking_layers(
    convs: Sequence[nn.Conv2d | nn.ConvTranspose2d], neuron: Neuron
) -> nn.ModuleList:
    return nn.ModuleList(
        SpikingLayer(conv, BatchNorm2d(conv.out_channels), neuron()) for conv in convs
    )
