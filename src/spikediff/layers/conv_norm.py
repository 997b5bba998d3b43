"""Convolution and norm: what turns spikes into the current of the next neuron."""

from collections.abc import Callable

from torch import Tensor, nn

from spikediff.layers.dimensions import BATCH_NORMS, CONVOLUTIONS
from spikediff.layers.normed_neuron import fire_normed
from spikediff.layers.temporal_scaling import Scaling
from spikediff.layers.time import over_time
from spikediff.neurons import Memory

Norm = Callable[[int], nn.Module]


class ConvNorm(nn.Module):
    """`BN(p[n] Conv(x))` at every spiking step; the statistics are joint over time and batch.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the current.
        stride: Stride of the convolution, 3x3 or of 3 taps.
        scaling: Makes what scales the current, `TemporalScaling`; p = 1 by default.
        norm: Makes the norm of a number of channels; batch norm where it is not given.
        dimensions: 2 for images, 1 for signals.

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
        self,
        neuron: nn.Module,
        x: Tensor,
        bias: Tensor | None = None,
        memory: Memory | None = None,
    ) -> Tensor:
        """Return the spikes of the neuron [T, B, C_out, H', W'] that the current drives.

        Args:
            neuron: The neuron layer behind.
            x: Input [T, B, C_in, H, W].
            bias: Joins behind the norm, of a shape that broadcasts to the current.
            memory: As in `spikediff.neurons.NeuronLayer.forward`.
        """
        current = self.scaling(over_time(self.conv, x))
        return fire_normed(neuron, self.norm, current, bias, memory)

    def normalise(self, current: Tensor) -> Tensor:
        """Return `BN(p[n] current)` of a convolution's result [T, B, C_out, H, W]."""
        return over_time(self.norm, self.scaling(current))
