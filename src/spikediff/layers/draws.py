"""Random draws of a batch: from one generator, or from one per image."""

from collections.abc import Callable

import torch
from torch import Tensor

from spikediff.errors import UserError

Generators = torch.Generator | list[torch.Generator] | None
Draw = Callable[[int, torch.Generator | None], Tensor]


def draw_each(draw: Draw, batch_size: int, generator: Generators, axis: int = 0) -> Tensor:
    """Draw for a batch of images.

    Args:
        draw: Called as `draw(images, generator)`; returns what that many images need.
        batch_size: B.
        generator: One source for all; or one per image, and then what image k gets depends on the
            k-th generator alone, because every image is drawn by itself.
        axis: Axis of the images in what `draw` returns.

    Returns:
        The draws, B along `axis`.

    Raises:
        UserError: There are not as many generators as images.

    Example:
        >>> seeds = [torch.Generator().manual_seed(s) for s in (5, 6, 5)]
        >>> a, _, c = draw_each(lambda n, g: torch.rand(n, generator=g), 3, seeds)
        >>> bool(a == c)
        True
    """
    if not isinstance(generator, list):
        return draw(batch_size, generator)
    if len(generator) != batch_size:
        raise UserError(f"{len(generator)} generators for a batch of {batch_size}; one per image")
    return torch.cat([draw(1, own) for own in generator], axis)
