"""Decode image files with Pillow, in the same way for every reader."""

import contextlib
import io
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from spikediff.data.dataset import Pictures, PictureShape
from spikediff.errors import UserError, brief
from spikediff.files.reading import MOST_IMAGE, open_regular, read_regular

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
MOST_PIXELS = 2**26  # pixels of a picture, 8192 x 8192
_TURNED = range(5, 9)  # values of the EXIF orientation that swap width and height
WHITE, BLACK = 255, 0  # backgrounds for transparent pictures

# Exceptions that Pillow's decoders raise for damaged files.
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


def read_image(path: Path, ground: int = WHITE) -> Image.Image:
    """Read and decode an image file (`read_regular`, `decode_image`)."""
    return decode_image(read_regular(path, MOST_IMAGE), str(path), ground)


def read_shape(path: Path) -> PictureShape:
    """Return the shape that `read_image` would return, from the file's header."""
    with open_regular(path, MOST_IMAGE) as file, _told(str(path)):
        picture = Image.open(file, formats=_FORMATS)
        check_pixels(picture, str(path))
        turned = picture.getexif().get(ExifTags.Base.Orientation) in _TURNED
        width, height = reversed(picture.size) if turned else picture.size
        return PictureShape(width, height, grey=_mode_of(picture) == "L")


@contextlib.contextmanager
def _told(where: str) -> Iterator[None]:
    """Turn Pillow's exceptions for a damaged file into a one-line error; hide size warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    except UserError:
        raise
    except _DECODE_ERRORS as error:
        raise UserError(
            f"{where}: cannot be decoded as an image ({_reason(error)}); replace or remove it"
        ) from None


def decode_image(encoded: bytes, where: str, ground: int = WHITE) -> Image.Image:
    """Decode the bytes of a PNG, JPEG, WebP or BMP file of at most `MOST_PIXELS`.

    Return the picture upright (with its EXIF orientation applied), mode `L` or `RGB`. `where` names
    the file in an error; `ground` is the grey level behind transparent pixels.
    """
    with _told(where), Image.open(io.BytesIO(encoded), formats=_FORMATS) as picture:
        check_pixels(picture, where)
        picture.load()
        return grey_or_rgb(ImageOps.exif_transpose(picture), ground)


def check_pixels(picture: Image.Image, where: str) -> None:
    """Refuse a picture of more than `MOST_PIXELS`, before decoding it."""
    if picture.width * picture.height > MOST_PIXELS:
        raise UserError(
            f"{where}: has {picture.width} x {picture.height} pixels, more than {MOST_PIXELS:,}; "
            "make it smaller or remove it"
        )


def grey_or_rgb(picture: Image.Image, ground: int = WHITE) -> Image.Image:
    """Convert any Pillow mode to `L`, for pictures without colour, or `RGB`.

    16-bit values are reduced to the upper 8 bits. Transparent pixels show the grey level `ground`.

    Example:
        >>> grey_or_rgb(Image.new("LA", (2, 2))).mode, grey_or_rgb(Image.new("P", (2, 2))).mode
        ('L', 'RGB')
    """
    if _has_16_bits(picture):
        # Pillow's own conversion clips at 255 instead of scaling.
        deep = np.asarray(picture).astype(np.int64)
        grey = np.clip(deep >> 8, 0, 255).astype(np.uint8)
        if isinstance(picture.info.get("transparency"), int):
            grey[deep == picture.info["transparency"]] = ground
        return Image.fromarray(grey)
    mode = _mode_of(picture)
    if not picture.has_transparency_data:
        return picture if picture.mode == mode else picture.convert(mode)
    laid = Image.new("RGBA", picture.size, (ground, ground, ground, 255))
    laid.alpha_composite(picture.convert("RGBA"))
    return laid.convert("RGB").convert(mode)


def _has_16_bits(picture: Image.Image) -> bool:
    return picture.mode == "I" or picture.mode.startswith("I;16")


def _mode_of(picture: Image.Image) -> str:
    """Return the mode to which `grey_or_rgb` converts a picture."""
    grey = picture.mode in ("1", "L", "LA", "La") or _has_16_bits(picture)
    return "L" if grey else "RGB"


def image_files(
    paths: Sequence[Path],
    origin: str,
    labels: Tensor | None = None,
    class_names: tuple[str, ...] = (),
) -> Pictures:
    """Return pictures in separate files, which are decoded on access."""
    return Pictures(paths, read_image, str, origin, labels, class_names, read_shape)


def _reason(error: Exception) -> str:
    """Return the reason without the buffer address that Pillow prints."""
    return "unknown format" if isinstance(error, UnidentifiedImageError) else brief(error)
