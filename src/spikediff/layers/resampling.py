"""Halving and doubling the image size of a window of currents or spikes."""

from torch import Tensor, nn
from torch.nn.functional import interpolate

from spikediff.layers.conv import ConvNorm
from spikediff.layers.residual import Neuron
from spikediff.layers.temporal_scaling import Scaling
from spikediff.layers.time import fold_time, unfold_time


def nearest_upsample(x: Tensor) -> Tensor:
    """Return [T, B, C, H, W] as [T, B, C, 2H, 2W], every pixel repeated; spikes stay spikes.

    A window of signals [T, B, C, L] becomes [T, B, C, 2L].
    """
    return unfold_time(interpolate(fold_time(x), scale_factor=2.0, mode="nearest"), x.shape[0])


class Downsample(nn.Module):
    """Halve the size: fire, convolve with stride 2, norm; or fire last (`neuron_first=False`).

    Args:
        channels: Channels in and out.
        neuron: Makes one neuron layer.
        neuron_first: Whether the neuron stands before the convolution (pre-spike networks).
        scaling: Makes what scales the current of the convolution.
        dimensions: 2 for images, 1 for signals, which have no axis H.

    Shape: [T, B, C, H, W] -> [T, B, C, H/2, W/2].
    """

    def __init__(
        self,
        channels: int,
        neuron: Neuron,
        neuron_first: bool = True,
        scaling: Scaling = nn.Identity,
        dimensions: int = 2,
    ) -> None:
        super().__init__()
        self.neuron = neuron()
        self.synapse = ConvNorm(channels, channels, 2, scaling, dimensions=dimensions)
        self.neuron_first = neuron_first

    def forward(self, x: Tensor) -> Tensor:
        """Return the window at half the size."""
        if self.neuron_first:
            return self.synapse(self.neuron(x))  # type: ignore[no-any-return]
        return self.synapse.fire(self.neuron, x)


class Upsample(nn.Module):
    """Double the size: fire, repeat pixels, convolve, norm; or fire last (`neuron_first=False`).

    Args:
        channels: Channels in and out.
        neuron: Makes one neuron layer.
        neuron_first: Whether the neuron stands before the convolution (pre-spike networks).
        scaling: Makes what scales the current of the convolution.
        dimensions: 2 for images, 1 for signals, which have no axis H.

    Shape: [T, B, C, H, W] -> [T, B, C, 2H, 2W].
    """

    def __init__(
        self,
        channels: int,
        neuron: Neuron,
        neuron_first: bool = True,
        scaling: Scaling = nn.Identity,
        dimensions: int = 2,
    ) -> None:
        super().__init__()
        self.neuron = neuron()
        self.synapse = ConvNorm(channels, channels, 1, scaling, dimensions=dimensions)
        self.neuron_first = neuron_first

    def forward(self, x: Tensor) -> Tensor:
        """Return the window at twice the size."""
        if self.neuron_first:
            return self.synapse(nearest_upsample(self.neuron(x)))  # type: ignore[no-any-return]
        return self.synapse.fire(self.neuron, nearest_upsample(x))
