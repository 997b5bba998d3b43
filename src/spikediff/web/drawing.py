"""From what somebody uploads or draws to a picture and a mask of the model's size."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from spikediff.data.decoding import BLACK, decode_image
from spikediff.errors import UserError

MOST_BYTES = 4 * 2**20  # of an upload
_REDDER = 96  # than green and blue is what marks a part
_SHARE = 64  # of 255: of a pixel that is marked


def read_upload(encoded: bytes, size: int, mode: str, like: Image.Image) -> Image.Image:
    """Return an uploaded picture as the model's images are: square, of its size and mode.

    It is cut around its middle. Dark strokes on light paper become light ones on dark where `like`,
    an image of the model, is so.

    Raises:
        UserError: The file is too large, or holds no picture.
    """
    if len(encoded) > MOST_BYTES:
        raise UserError(f"the file has more than {MOST_BYTES // 2**20} MB; upload a smaller one")
    picture = decode_image(encoded, "the upload", BLACK).convert(mode)
    picture = ImageOps.fit(picture, (size, size), Image.Resampling.BOX)
    if mode == "L" and (_border(picture) > 127) != (_border(like) > 127):
        return ImageOps.invert(picture)
    return picture


def _border(picture: Image.Image) -> float:
    """Return the median of the outermost pixels."""
    pixels = np.asarray(picture)
    edges = pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]
    return float(np.median(np.concatenate(edges)))


def read_drawing(
    composite: NDArray[Any], layers: Sequence[NDArray[Any]], size: int, mode: str
) -> tuple[Image.Image, Image.Image]:
    """Return the picture [size, size] of a canvas, and the mask of what is painted red.

    Args:
        composite: The canvas [H, W, 3 or 4].
        layers: What was drawn on its background, [H, W, 4] each.
        size: Of the model's images.
        mode: "L" or "RGB".

    Raises:
        UserError: Nothing is red.
    """
    red = np.zeros(composite.shape[:2], bool)
    for layer in layers:
        colours = layer[..., :3].astype(int)
        redder = colours[..., 0] - colours[..., 1:].max(-1) > _REDDER
        red |= redder & (layer[..., 3] >= 128)
    if not red.any():
        raise UserError("nothing is marked; paint red over what is to be made anew")
    kept = np.where(red[..., None], 0, composite[..., :3]).astype(np.uint8)
    shrunk = Image.fromarray((red * 255).astype(np.uint8)).resize(
        (size, size), Image.Resampling.BOX
    )
    picture = Image.fromarray(kept).convert(mode).resize((size, size), Image.Resampling.BOX)
    return picture, shrunk.point(lambda share: 255 * (share >= _SHARE))
