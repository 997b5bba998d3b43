"""Conversion between the pixel ranges `[0, 255]`, `[0, 1]` and `[-1, 1]`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from spikediff.errors import UserError
from spikediff.files.tensors import check_values

HALF_RANGE = 127.5  # 255 / 2: grey levels from the middle of uint8 to either end


def to_model_range(images: Tensor) -> Tensor:
    """Convert stored pixels, uint8 of any shape, to the model range: float32 `x / 127.5 - 1`.

    Example:
        >>> to_model_range(torch.tensor([0, 255], dtype=torch.uint8)).tolist()
        [-1.0, 1.0]
    """
    if images.dtype != torch.uint8:
        raise UserError(f"to_model_range: expected uint8 pixels, got {images.dtype}; pass 0 to 255")
    return images.to(torch.float32) / HALF_RANGE - 1.0


def to_uint8(images: Tensor) -> Tensor:
    """Turn a model's images into pixels to store: the inverse of `to_model_range`.

    Values outside `[-1, 1]` are clamped; the others are rounded to the nearest grey level.

    Example:
        >>> to_uint8(torch.tensor([-1.0, 0.1, 7.0])).tolist()
        [0, 140, 255]
    """
    if not images.is_floating_point():
        raise UserError(f"to_uint8: expected floating point, got {images.dtype}; pass -1 to 1")
    # float32 first, because products in half precision cannot distinguish all 256 grey levels.
    unit = check_values(images, "to_uint8").to(torch.float32).clamp(-1.0, 1.0)
    return ((unit + 1.0) * HALF_RANGE).round().to(torch.uint8)


def to_unit_range(images: Tensor) -> Tensor:
    """Map images from [-1, 1] to [0, 1]: `x / 2 + 0.5`, without a clamp."""
    return images / 2 + 0.5


def from_unit_range(images: Tensor) -> Tensor:
    """Map images from [0, 1] to [-1, 1]: `2 x - 1`, without a clamp."""
    return images * 2 - 1


def change_range(
    images: Tensor, old: Sequence[float] = (-1.0, 1.0), new: Sequence[float] = (-1.0, 1.0)
) -> Tensor:
    """Map images linearly from one range to another; values outside it stay outside.

    Args:
        images: Floating point, any shape.
        old: The present values of black and white.
        new: The new values of black and white.

    Example:
        >>> change_range(torch.tensor([-1.0, 0.5]), new=(-0.5, 0.5)).tolist()
        [-0.5, 0.25]
    """
    scale = (new[1] - new[0]) / (old[1] - old[0])
    return (images - old[0]) * scale + new[0]


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image of `[B, C, H, W]` left to right with probability one half.

    The generator is the only source of randomness; it is called for B numbers.

    Example:
        >>> pair = torch.arange(4).reshape(2, 1, 1, 2)
        >>> flipped = random_flip(pair, torch.Generator().manual_seed(0))
        >>> flipped.sum(-1).flatten().tolist()
        [1, 5]
    """
    random = torch.rand(images.shape[0], generator=generator, device=generator.device)  # [B]
    mirrored = (random < 0.5).to(images.device)[:, None, None, None]  # [B, 1, 1, 1]
    return torch.where(mirrored, images.flip(-1), images)
