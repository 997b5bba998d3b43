"""How a picture is made to fit: crop, then resize, then channels."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from spikediff.errors import UserError

# Pillow widens every filter when it shrinks (it antialiases), as torchvision's Resize does on
# Pillow images and as the DDPM family expects.
RESIZE_FILTERS: dict[str, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
}


@dataclass(frozen=True)
class Fit:
    """What a picture is made to fit.

    Args:
        size: side of the square result, in pixels.
        channels: 1 (luma) or 3 (RGB).
        crop: side of the centred square that is kept, in pixels; None keeps the largest one.
        resize_filter: a key of `RESIZE_FILTERS`.

    Raises:
        UserError: an argument is outside its range.

    Example:
        >>> Fit(size=64, channels=3, crop=148)
        Fit(size=64, channels=3, crop=148, resize_filter='bilinear')
    """

    size: int
    channels: int
    crop: int | None = None
    resize_filter: str = "bilinear"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"image_size is {self.size}; give a side of at least 1 pixel")
        if self.channels not in (1, 3):
            raise UserError(f"channels is {self.channels}; give 1 (grey) or 3 (RGB)")
        if self.resize_filter not in RESIZE_FILTERS:
            known = ", ".join(RESIZE_FILTERS)
            raise UserError(f"unknown resize filter {self.resize_filter!r}; choose from {known}")


def fit_picture(picture: Image.Image, fit: Fit, where: str = "picture") -> Tensor:
    """Crop to the centred square, resize, and set the channels of one picture.

    This is the definition; every reader's pictures pass through it.

    Args:
        picture: mode `L` or `RGB`, any size.
        fit: what to make of it.
        where: the file or index to name in an error.

    Returns:
        uint8 `[C, H, W]`, H = W = `fit.size`.

    Raises:
        UserError: the picture is smaller than the crop.

    Example:
        >>> fit_picture(Image.new("L", (6, 4), 7), Fit(size=2, channels=3)).shape
        torch.Size([3, 2, 2])
    """
    square = _crop_square(picture, fit.crop, where)
    if square.width != fit.size:
        square = square.resize((fit.size, fit.size), RESIZE_FILTERS[fit.resize_filter])
    pixels = np.array(square.convert("L" if fit.channels == 1 else "RGB"))
    return torch.from_numpy(pixels.reshape(fit.size, fit.size, fit.channels)).permute(2, 0, 1)


def fit_pixels(pixels: NDArray[np.uint8], fit: Fit, where: str = "pixels") -> Tensor:
    """Apply `fit_picture` to every picture of an array; at once where the result is the same.

    Args:
        pixels: uint8 `[N, H, W]` or `[N, H, W, 3]`.
        fit: what to make of each.
        where: the file to name in an error.

    Returns:
        uint8 `[N, C, size, size]`, contiguous.

    Raises:
        UserError: the pictures are smaller than the crop.

    Example:
        >>> fit_pixels(np.zeros((5, 8, 8), np.uint8), Fit(size=4, channels=1)).shape
        torch.Size([5, 1, 4, 4])
    """
    if fit.crop is None and pixels.shape[1:3] == (fit.size, fit.size):
        return _set_channels(pixels, fit.channels)
    fitted = torch.empty(len(pixels), fit.channels, fit.size, fit.size, dtype=torch.uint8)
    for index, image in enumerate(pixels):
        fitted[index] = fit_picture(Image.fromarray(image), fit, where)
    return fitted


def _crop_square(picture: Image.Image, crop: int | None, where: str) -> Image.Image:
    """Keep the centred square of side `crop` (None: the largest)."""
    width, height = picture.size
    side = min(width, height) if crop is None else crop
    if (width, height) == (side, side):
        return picture
    if side > min(width, height):
        raise UserError(
            f"{where}: {width}x{height} pixels, smaller than the {side}x{side} crop of this data "
            "set; give the original files, or read the folder as 'folder:PATH'"
        )
    left, top = round((width - side) / 2), round((height - side) / 2)  # as torchvision rounds
    return picture.crop((left, top, left + side, top + side))


def _set_channels(pixels: NDArray[np.uint8], channels: int) -> Tensor:
    """Turn `[N, H, W]` or `[N, H, W, 3]` into `[N, C, H, W]` without resizing."""
    count, height, width = pixels.shape[:3]
    if pixels.ndim == 4 and channels == 1:
        # Luma is pointwise: one tall picture gives what N pictures give.
        tall = Image.fromarray(pixels.reshape(count * height, width, 3))
        pixels = np.asarray(tall.convert("L")).reshape(count, height, width)
    if pixels.ndim == 3:
        grey = torch.tensor(pixels)[:, None]  # [N, 1, H, W]
        return grey.repeat(1, channels, 1, 1)
    return torch.tensor(pixels).permute(0, 3, 1, 2).contiguous()  # [N, 3, H, W]
