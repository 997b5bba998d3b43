"""Halving, doubling or keeping the size of a window between two levels of FSDDIM's network."""

from collections.abc import Callable

from torch import Tensor, nn

from spikediff.layers.normed_neuron import fire_normed
from spikediff.layers.pointwise import pointwise_conv
from spikediff.layers.residual import Neuron
from spikediff.layers.threshold_norm import ThresholdNorm
from spikediff.layers.time import fold_time, over_time, unfold_time
from spikediff.neurons import Memory

Resize = Callable[[Tensor], Tensor]


def average_downsample(x: Tensor) -> Tensor:
    """Return [T, B, C, H, W] as [T, B, C, H/2, W/2], the mean of every four pixels."""
    return unfold_time(nn.functional.avg_pool2d(fold_time(x), 2), x.shape[0])


def same_size(x: Tensor) -> Tensor:
    """Return the window itself."""
    return x


class SynapticResampling(nn.Module):
    """Resize, convolve; and, where it is given neurons, norm and fire.

    Without neurons the result is a current, which merges with the next convolution into one linear
    synapse: nothing fires between them.

    Args:
        in_channels: Channels of the incoming window.
        out_channels: Channels of the outgoing one.
        resize: `average_downsample`, `nearest_upsample` or `same_size`.
        kernel_size: Odd size of the kernel.
        neuron: Makes one neuron layer; None leaves the current as it is.
        v_threshold: Threshold of the neurons, which the norm aims at.

    Shape: [T, B, C_in, H, W] -> [T, B, C_out, H', W'].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        resize: Resize,
        kernel_size: int,
        neuron: Neuron | None = None,
        v_threshold: float = 1.0,
    ) -> None:
        super().__init__()
        self.resize = resize
        self.conv = (
            pointwise_conv(in_channels, out_channels)
            if kernel_size == 1
            else nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        )
        fires = neuron is not None
        self.norm = ThresholdNorm(out_channels, v_threshold=v_threshold) if fires else nn.Identity()
        self.neuron = None if neuron is None else neuron()

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """Return the resized window of currents, or of spikes where there are neurons."""
        current = over_time(self.conv, self.resize(x))
        if self.neuron is None:
            return current
        return fire_normed(self.neuron, self.norm, current, memory=memory)
