"""Resize pictures: crop, then resize, then set the channels."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from spikediff.errors import UserError, check_known, check_number

# When Pillow shrinks a picture, it widens the filter (it antialiases), like torchvision's Resize
# for Pillow images. The DDPM family expects this.
RESIZE_FILTERS: dict[str, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
}


@dataclass(frozen=True)
class Resize:
    """The target square of pictures."""

    size: int  # side, in pixels
    channels: int  # 1 (luma) or 3 (RGB)
    crop: int | None = None  # side of the centred square to keep; None keeps the largest one
    resize_filter: str = "bilinear"  # a key of `RESIZE_FILTERS`

    def __post_init__(self) -> None:
        check_number("image_size", self.size, 1, whole=True)
        if self.channels not in (1, 3):
            raise UserError(f"channels is {self.channels}; give 1 (grey) or 3 (RGB)")
        check_known("resize filter", self.resize_filter, RESIZE_FILTERS)


def resize_picture(picture: Image.Image, resize: Resize, where: str = "picture") -> Tensor:
    """Crop a picture to the centred square, resize it, and set its channels.

    The pictures of every reader pass through it. The picture has mode `L` or `RGB`; the result is
    uint8 `[C, size, size]`. `where` names the file in an error.

    Example:
        >>> resize_picture(Image.new("L", (6, 4), 7), Resize(size=2, channels=3)).shape
        torch.Size([3, 2, 2])
    """
    square = _crop_square(picture, resize.crop, where)
    if square.width != resize.size:
        new = RESIZE_FILTERS[resize.resize_filter]
        square = square.resize((resize.size, resize.size), new)
    pixels = np.array(square.convert("L" if resize.channels == 1 else "RGB"))
    pixels = pixels.reshape(resize.size, resize.size, resize.channels)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def resize_pixels(pixels: NDArray[np.uint8], resize: Resize, where: str = "pixels") -> Tensor:
    """Apply `resize_picture` to pictures, all at once if that gives the same result.

    They are uint8 `[N, H, W]` or `[N, H, W, 3]`; the result is contiguous `[N, C, size, size]`.
    """
    if resize.crop is None and pixels.shape[1:3] == (resize.size, resize.size):
        return _set_channels(pixels, resize.channels)
    if resize.crop is None and pixels.ndim == 3 and pixels.shape[1] == pixels.shape[2]:
        return _set_channels(_resize_grey(pixels, resize), resize.channels)
    shape = (len(pixels), resize.channels, resize.size, resize.size)
    resized = torch.empty(shape, dtype=torch.uint8)
    for index, image in enumerate(pixels):
        resized[index] = resize_picture(Image.fromarray(image), resize, where)
    return resized


def _resize_grey(pixels: NDArray[np.uint8], resize: Resize) -> NDArray[np.uint8]:
    """Resize squares `[N, H, H]`: four at a time, as the bands of a picture.

    Pillow resizes each band as a picture of its own.
    """
    count, side, bands = len(pixels), pixels.shape[1], 4
    fours = np.pad(pixels, ((0, -count % bands), (0, 0), (0, 0))).reshape(-1, bands, side, side)
    resized = np.empty((len(fours), bands, resize.size, resize.size), np.uint8)
    for four, into in zip(fours.transpose(0, 2, 3, 1), resized, strict=True):  # [H, H, 4]
        picture = Image.frombytes("CMYK", (side, side), four.tobytes())
        picture = picture.resize((resize.size,) * 2, RESIZE_FILTERS[resize.resize_filter])
        into[:] = np.asarray(picture).transpose(2, 0, 1)
    return resized.reshape(-1, resize.size, resize.size)[:count]


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
        # Luma is pointwise, so one tall picture gives the same result as N pictures.
        tall = Image.fromarray(pixels.reshape(count * height, width, 3))
        pixels = np.asarray(tall.convert("L")).reshape(count, height, width)
    if pixels.ndim == 3:
        grey = torch.tensor(pixels)[:, None]  # [N, 1, H, W]
        return grey.repeat(1, channels, 1, 1)
    return torch.tensor(pixels).permute(0, 3, 1, 2).contiguous()  # [N, 3, H, W]
