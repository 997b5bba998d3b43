"""From a model's images to pictures that a person looks at: PIL images, grids, GIFs."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from diffusers.utils import make_image_grid
from PIL import Image, ImageOps
from torch import Tensor

from spikediff.data import to_uint8

_READABLE = 640  # pixels: a grid is magnified by a whole number until it is about this wide
_GAP = 48  # grey level of the lines between the images of a grid


def to_pil(sample: Tensor) -> list[Image.Image]:
    """Return images [B, C, H, W] in [-1, 1] as PIL images: "L" for one channel, else "RGB"."""
    pixels = to_uint8(sample).permute(0, 2, 3, 1).cpu().numpy()  # [B, H, W, C]
    return [Image.fromarray(p[:, :, 0] if p.shape[2] == 1 else p) for p in pixels]


def _to_unit(sample: Tensor) -> Tensor:
    """Return images of [-1, 1] in [0, 1]."""
    return (sample / 2 + 0.5).clamp(0, 1)


OUTPUT_TYPES: dict[str, Callable[[Tensor], Any]] = {
    "pil": to_pil,
    "np": lambda sample: _to_unit(sample).permute(0, 2, 3, 1).cpu().numpy(),  # [B, H, W, C]
    "pt": _to_unit,
}


def image_grid(images: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """Return images in rows, thin lines between them, magnified so that small ones can be seen.

    Args:
        images: Images of one size and mode.
        columns: Images a row; a square grid where it is not given.

    Example:
        >>> image_grid([Image.new("L", (8, 8))] * 4).size
        (640, 640)
    """
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    grey: int | tuple[int, ...] = _GAP if images[0].mode == "L" else (_GAP,) * 3
    scale = max(1, round(_READABLE / (columns * images[0].width)))
    size = (images[0].width * scale, images[0].height * scale)
    framed = [
        ImageOps.expand(_inner(image.resize(size, Image.Resampling.NEAREST)), 1, grey)
        for image in images
    ]
    blank = Image.new(images[0].mode, size, grey)
    padded = [*framed, *[blank] * (rows * columns - len(images))]
    grid: Image.Image = make_image_grid(padded, rows, columns)
    return grid


def _inner(image: Image.Image) -> Image.Image:
    """Return the picture without its outermost line of pixels, where the frame goes."""
    return image.crop((1, 1, image.width - 1, image.height - 1))


def record_frames(frames: list[Image.Image], shown: int) -> Callable[..., dict[str, Tensor]]:
    """Return a callback of a pipeline that keeps a grid of every step, for `save_gif`.

    Args:
        frames: The list that grows by one grid a step.
        shown: Images in a grid, at most.
    """

    def keep(_pipe: object, _i: int, _t: object, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        frames.append(image_grid(to_pil(tensors["sample"][:shown])))
        return {}

    return keep


def save_gif(frames: Sequence[Image.Image], path: Path, frame_ms: int = 120) -> None:
    """Write an endless GIF that rests on its last frame.

    Args:
        frames: Pictures of one size.
        path: The file.
        frame_ms: Time of a frame in milliseconds; the last one stays ten times as long.
    """
    durations = [frame_ms] * (len(frames) - 1) + [10 * frame_ms]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0)
