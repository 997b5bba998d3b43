"""From a model's images to pictures that a person looks at: PIL images, grids, GIFs."""

import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import make_image_grid
from PIL import Image, ImageOps
from torch import Tensor

from spikediff.data import to_uint8
from spikediff.errors import UserError
from spikediff.finite import check_values
from spikediff.pipelines.seeding import whole

_READABLE = 640  # pixels: a grid is magnified by a whole number until it is about this wide
_GAP = 48  # grey level of the lines between the images of a grid


def to_pil(sample: Tensor) -> list[Image.Image]:
    """Return images [B, C, H, W] in [-1, 1] as PIL images: "L" for one channel, else "RGB"."""
    return pixels_to_pil(to_uint8(sample))


def pixels_to_pil(pixels: Tensor) -> list[Image.Image]:
    """Return uint8 images [B, C, H, W] as PIL images: "L" for one channel, else "RGB"."""
    arrays = pixels.permute(0, 2, 3, 1).cpu().numpy()  # [B, H, W, C]
    return [Image.fromarray(a[:, :, 0] if a.shape[2] == 1 else a) for a in arrays]


def as_array(values: Tensor) -> Any:
    """Return a tensor as a NumPy array; half precision, which NumPy does not know, as float32."""
    half = values.dtype in (torch.float16, torch.bfloat16)
    return (values.float() if half else values).cpu().numpy()


def _to_unit(sample: Tensor) -> Tensor:
    return (check_values(sample, "images") / 2 + 0.5).clamp(0, 1)


# From images [B, C, H, W] in [-1, 1] to what a pipeline's caller asked for.
OUTPUT_TYPES: dict[str, Callable[[Tensor], Any]] = {
    "pil": to_pil,
    "np": lambda sample: as_array(_to_unit(sample).permute(0, 2, 3, 1)),
    "pt": _to_unit,
}


def check_output_type(output_type: str, known: Collection[str] = tuple(OUTPUT_TYPES)) -> None:
    """Refuse an output type that a pipeline does not have.

    Raises:
        UserError: It is none of the known ones.
    """
    if output_type not in known:
        raise UserError(f"unknown output_type {output_type!r}; choose from {list(known)}")


def check_call(output_type: str, num_inference_steps: int) -> None:
    """Refuse a call of a pipeline that could not end well, before it computes.

    Raises:
        UserError: The output type is unknown, or there is no step to make.
    """
    check_output_type(output_type)
    if whole(num_inference_steps, "num_inference_steps") < 1:
        raise UserError(f"num_inference_steps = {num_inference_steps} must be at least 1")


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
        frames.append(image_grid(to_pil(_visible(tensors["sample"][:shown]))))
        return {}

    return keep


def _visible(sample: Tensor) -> Tensor:
    """Return images as they are, and grids of tokens [B, h, w] in grey, masks white."""
    if sample.is_floating_point():
        return sample
    return sample[:, None] / sample.max().clamp(min=1) * 2.0 - 1.0


def save_gif(frames: Sequence[Image.Image], path: Path, frame_ms: int = 120) -> None:
    """Write an endless GIF that rests on its last frame.

    Args:
        frames: Pictures of one size.
        path: The file.
        frame_ms: Time of a frame in milliseconds; the last one stays ten times as long.
    """
    durations = [frame_ms] * (len(frames) - 1) + [10 * frame_ms]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0)
