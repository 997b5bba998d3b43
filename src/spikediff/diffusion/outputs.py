"""Convert a model's images and signals to output: PIL images, arrays, grids, plots."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.utils import make_image_grid
from PIL import Image, ImageOps
from torch import Tensor

from spikediff.data import change_range, from_unit_range, to_uint8, to_unit_range
from spikediff.errors import UserError, check_known
from spikediff.files.tensors import check_values

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
    """Return a tensor as a NumPy array; half precision becomes float32."""
    half = values.dtype in (torch.float16, torch.bfloat16)
    return (values.float() if half else values).cpu().numpy()


def _to_unit(sample: Tensor) -> Tensor:
    return to_unit_range(check_values(sample, "images")).clamp(0, 1)


# Convert images [B, C, H, W] in [-1, 1] to an output type.
OUTPUT_TYPES: dict[str, Callable[[Tensor], Any]] = {
    "pil": to_pil,
    "np": lambda sample: as_array(_to_unit(sample).permute(0, 2, 3, 1)),
    "pt": _to_unit,
}


def check_output_type(output_type: str, known: Collection[str] = tuple(OUTPUT_TYPES)) -> None:
    """Raise a `UserError` for an output type that a pipeline does not have."""
    check_known("output_type", output_type, known)


def image_grid(images: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """Return images in rows, separated by thin lines; small images are magnified.

    The images are of one size and mode; the grid is square unless `columns` is given.
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
    """Return the picture without its outermost line of pixels, the frame."""
    return image.crop((1, 1, image.width - 1, image.height - 1))


def record_frames(
    frames: list[Image.Image], shown: int, columns: int | None = None
) -> Callable[..., dict[str, Tensor]]:
    """Return a callback that appends a grid of at most `shown` images per step to `frames`."""

    def keep(_pipe: object, _i: int, _t: object, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        frames.append(image_grid(to_pil(visible_sample(tensors["sample"][:shown])), columns))
        return {}

    return keep


def visible_sample(sample: Tensor) -> Tensor:
    """Return images unchanged, and grids of tokens [B, h, w] in grey with white masks."""
    if sample.is_floating_point():
        return sample
    return from_unit_range(sample[:, None] / sample.max().clamp(min=1))


def save_gif(frames: Sequence[Image.Image], path: Path, frame_ms: int = 120) -> None:
    """Write an endless GIF of frames of one size; the last one stays ten times as long."""
    durations = [frame_ms] * (len(frames) - 1) + [10 * frame_ms]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0)


_MOST_ROWS = 8


def signal_output(
    output_type: str, signal_range: Sequence[float] | None
) -> Callable[[Tensor], Any]:
    """Return a function from a model's signals [B, C, L] to a pipeline's output, without clamping.

    `signal_range` has the values of the signal that the model sees as -1 and 1; None keeps the
    model's range.

    Example:
        >>> import torch
        >>> signal_output("pt", (-60.0, 20.0))(torch.tensor([-1.0, 0.5, 2.0])).tolist()
        [-60.0, 0.0, 60.0]
    """
    if output_type not in ("pt", "np"):
        raise UserError(
            f"output_type {output_type!r}: the network makes signals, not pictures; "
            'give output_type="np" or "pt"'
        )

    def finish(sample: Tensor) -> Any:
        check_values(sample, "signals")
        if signal_range is not None:
            sample = change_range(sample, new=signal_range)
        return sample if output_type == "pt" else as_array(sample)

    return finish


def plot_signals(columns: Mapping[str, Tensor], unit: str = "") -> Image.Image:
    """Plot the first eight signals [N, C, L] of every kind as lines, in one column per kind."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = min(_MOST_ROWS, max(len(signals) for signals in columns.values()))
    figure = Figure(figsize=(4.5 * len(columns), 0.9 * rows + 0.8), layout="constrained")
    grid = figure.subplots(rows, len(columns), squeeze=False, sharex=True, sharey=True)
    for column, (name, signals) in enumerate(columns.items()):
        grid[0][column].set_title(name)
        grid[-1][column].set_xlabel("sample")
        for axes, signal in zip(grid[:, column], signals, strict=False):
            axes.plot(signal.T.numpy(), linewidth=0.9)
    figure.supylabel(unit)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
