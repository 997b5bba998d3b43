"""Decoding image files with Pillow, one way for every reader."""

import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from spikediff.data.files import brief, read_file
from spikediff.data.sources import select_labels
from spikediff.errors import UserError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})

# What Pillow's decoders raise on damaged files.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    EOFError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def decode_image(encoded: bytes, where: str) -> Image.Image:
    """Decode an image file's bytes.

    Args:
        encoded: a PNG, JPEG, WebP or BMP file.
        where: the file to name in an error.

    Returns:
        The picture upright (its EXIF orientation applied), mode `L` or `RGB`.

    Raises:
        UserError: the bytes are not an image, or a damaged one.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as picture:
            picture.load()
            return grey_or_rgb(ImageOps.exif_transpose(picture))
    except _DECODE_ERRORS as error:
        raise UserError(
            f"{where}: cannot be decoded as an image ({_reason(error)}); replace or remove it"
        ) from None


def grey_or_rgb(picture: Image.Image) -> Image.Image:
    """Bring any Pillow mode to the two that the library knows.

    Args:
        picture: any mode; transparency is dropped, 16 bits are cut to the upper 8.

    Returns:
        Mode `L` for pictures without colour, `RGB` for all others.

    Example:
        >>> grey_or_rgb(Image.new("LA", (2, 2))).mode, grey_or_rgb(Image.new("P", (2, 2))).mode
        ('L', 'RGB')
    """
    if picture.mode in ("L", "RGB"):
        return picture
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255 instead of scaling.
        deep = np.asarray(picture).astype(np.int64)
        return Image.fromarray(np.clip(deep >> 8, 0, 255).astype(np.uint8))
    return picture.convert("L" if picture.mode in ("1", "LA", "La") else "RGB")


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Pictures that lie in files of their own and are decoded when asked for.

    Args:
        paths: one file per picture.
        labels: int64 `[N]`, or None.
        class_names: one name per class; empty without classes.
        origin: the folder, for reports.
    """

    paths: tuple[Path, ...]
    labels: Tensor | None
    class_names: tuple[str, ...]
    origin: str

    def __len__(self) -> int:
        return len(self.paths)

    def decode(self, index: int) -> Image.Image:
        """Return picture `index`, mode `L` or `RGB`."""
        return decode_image(read_file(self.paths[index]), self.where(index))

    def where(self, index: int) -> str:
        """Name picture `index` in an error message."""
        return str(self.paths[index])

    def select(self, indices: Sequence[int]) -> "ImageFiles":
        """Return these pictures only, in this order."""
        paths = tuple(self.paths[index] for index in indices)
        labels = select_labels(self.labels, indices)
        return ImageFiles(paths, labels, self.class_names, self.origin)


def _reason(error: Exception) -> str:
    """Say why, without the address of the buffer that Pillow prints."""
    return "unknown format" if isinstance(error, UnidentifiedImageError) else brief(error)
