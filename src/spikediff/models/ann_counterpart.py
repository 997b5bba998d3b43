"""The ordinary network that a spiking one is compared with."""

from typing import Any, Protocol, runtime_checkable

from torch import nn

from spikediff.errors import UserError


@runtime_checkable
class HasCounterpart(Protocol):
    """A spiking network that knows its ordinary counterpart."""

    def ann_counterpart(self) -> nn.Module:
        """Return the ordinary network of the same sizes, untrained."""


def ann_counterpart(model: Any) -> nn.Module:
    """Return the ordinary network of the same widths, depths and images, untrained.

    Args:
        model: A network with a method `ann_counterpart`.

    Raises:
        UserError: The model has none.

    Example:
        >>> from spikediff.models import SpikingUNet
        >>> spiking = SpikingUNet(8, 1, base_channels=8, channel_mult=(1, 2))
        >>> ann_counterpart(spiking).config.block_out_channels
        (8, 16)
    """
    if not isinstance(model, HasCounterpart):
        raise UserError(f"{type(model).__name__} has no ordinary counterpart to compare with")
    return model.ann_counterpart()
