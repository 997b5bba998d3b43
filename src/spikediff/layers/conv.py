"""Synapses and their norms: from spikes to the current of the next neuron, or to its spikes."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import overload

from torch import Tensor, nn

from spikediff.layers.norm import BatchNorm1d, BatchNorm2d, ThresholdNorm, fold_norm
from spikediff.layers.normed_neuron import fire_normed
from spikediff.layers.temporal_scaling import Scaling
from spikediff.layers.time import over_time
from spikediff.neurons import Memory, NeuronLayer

Convolution = nn.Conv1d | nn.Conv2d

CONVOLUTIONS: dict[int, type[nn.Conv1d] | type[nn.Conv2d]] = {1: nn.Conv1d, 2: nn.Conv2d}
BATCH_NORMS: dict[int, type[BatchNorm1d] | type[BatchNorm2d]] = {1: BatchNorm1d, 2: BatchNorm2d}


@overload
def pointwise_conv(in_channels: int, out_channels: int) -> nn.Conv2d: ...
@overload
def pointwise_conv(in_channels: int, out_channels: int, dimensions: int) -> Convolution: ...
def pointwise_conv(in_channels: int, out_channels: int, dimensions: int = 2) -> Convolution:
    """Return a 1x1 convolution whose rounding does not depend on the batch size.

    With one thread on a CPU, torch uses a different kernel for 1x1 convolutions of fewer than 16
    images, unless they are dilated; an image would then depend on its batch. Dilation has no
    other effect on a 1x1 kernel.
    """
    return CONVOLUTIONS[dimensions](in_channels, out_channels, 1, dilation=2)


def halving_convs(widths: Sequence[int]) -> list[nn.Conv2d]:
    """Return 3x3 convolutions between successive widths, each of which halves the image."""
    return [nn.Conv2d(old, new, 3, stride=2, padding=1) for old, new in pairwise(widths)]


def doubling_convs(widths: Sequence[int]) -> list[nn.ConvTranspose2d]:
    """Return transposed 3x3 convolutions, each of which doubles the image."""
    return [
        nn.ConvTranspose2d(old, new, 3, stride=2, padding=1, output_padding=1)
        for old, new in pairwise(widths)
    ]


Neuron = Callable[[], NeuronLayer]
Norm = Callable[[int], nn.Module]


class ConvNorm(nn.Module):
    """`BN(p[n] Conv(x))` at every spiking step; the statistics are joint over time and batch.

    The kernel is 3x3, or 3 for signals. `scaling` makes the module that scales the current
    (`TemporalScaling`; by default p = 1), `norm` the norm for a number of channels (by default
    batch norm).

    Shape: [T, B, C_in, H, W] -> [T, B, C_out, H / stride, W / stride], without H for signals.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        scaling: Scaling = nn.Identity,
        norm: Norm | None = None,
        dimensions: int = 2,
    ) -> None:
        super().__init__()
        self.conv = CONVOLUTIONS[dimensions](in_channels, out_channels, 3, stride, padding=1)
        self.scaling = scaling()
        self.norm = (norm or BATCH_NORMS[dimensions])(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the current [T, B, C_out, H', W']."""
        return self.normalise(over_time(self.conv, x))

    def fire(
        self, neuron: nn.Module, x: Tensor, bias: Tensor | None = None, memory: Memory | None = None
    ) -> Tensor:
        """Return the spikes [T, B, C_out, H', W'] of the neuron that the current of x drives.

        `bias` is added after the norm; its shape broadcasts to the current.
        """
        current = self.scaling(over_time(self.conv, x))
        return fire_normed(neuron, self.norm, current, bias, memory)

    def normalise(self, current: Tensor) -> Tensor:
        """Return `BN(p[n] current)` of a convolution's result [T, B, C_out, H, W]."""
        return over_time(self.norm, self.scaling(current))

    def fold_norms(self) -> None:
        """Fold the norm into the convolution, unless there are factors per spiking step."""
        if isinstance(self.scaling, nn.Identity):
            fold_norm(self, "conv")


class SpikingLayer(nn.Module):
    """Spikes in, spikes out: $SN(BN(W s[n] + b))$ at every spiking step.

    The synapse is a `Conv2d`, `ConvTranspose2d` or `Linear`; the norm's statistics are joint over
    time and batch.

    Shape: [T, B, ...] -> spikes [T, B, ...].
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
        """Return the spikes caused by the synapse's currents [T, B, ...]."""
        return fire_normed(self.neuron, self.norm, current, memory=memory)

    def fold_norms(self) -> None:
        """Fold the norm into the synapse."""
        fold_norm(self, "synapse")


def threshold_layer(
    synapse: nn.Module, channels: int, neuron: Callable[[], NeuronLayer], alpha: float = 1.0
) -> SpikingLayer:
    """Return a layer whose norm scales with the threshold of its neurons (tdBN), as in FSVAE."""
    made = neuron()
    return SpikingLayer(synapse, ThresholdNorm(channels, alpha, made.dynamics.v_threshold), made)
