"""Convolutions of kernel size 1."""

from typing import overload

from torch import nn

from spikediff.layers.dimensions import CONVOLUTIONS, Convolution


@overload
def pointwise_conv(in_channels: int, out_channels: int) -> nn.Conv2d: ...
@overload
def pointwise_conv(in_channels: int, out_channels: int, dimensions: int) -> Convolution: ...
def pointwise_conv(in_channels: int, out_channels: int, dimensions: int = 2) -> Convolution:
    """Return a 1x1 convolution whose rounding does not depend on the batch size.

    With one thread on a CPU, torch computes a 1x1 convolution of fewer than 16 images by another
    kernel than one of more, unless it is dilated; an image would then depend on the batch that it
    is in. One tap has nothing to dilate, so the dilation changes nothing else.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        dimensions: 2 for images, 1 for signals.
    """
    return CONVOLUTIONS[dimensions](in_channels, out_channels, 1, dilation=2)
