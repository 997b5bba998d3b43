"""What all pictures share: a figure without a display, its PNG, and the marks of a time axis."""

import io
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

RATES = "viridis"  # colours of firing rates, dark to bright
BARS = "#31688e"  # one of them
DEAD, SATURATED, SPIKE, TAKEN_BACK = "#7f7f7f", "#d95f02", "#c0152b", "#2166ac"
_DPI = 100


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure of a size in inches."""
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    return Figure(figsize=(width, height))


def to_png(figure: Any) -> bytes:
    """Return a figure as a PNG of the colours that our pictures have: half the size of one of all.

    A palette that is chosen from the picture would leave gaps in a scale of colours.
    """
    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, dpi=_DPI)
    palette = Image.new("P", (1, 1))
    palette.putpalette(_palette())
    with Image.open(drawn) as picture:
        few = picture.convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE)
        few.save(packed, "PNG", optimize=True)
    return packed.getvalue()


@cache
def _palette() -> bytes:
    """Return 256 colours: those of rates, greys, and the marks on their way to white."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    rates = colormaps[RATES](np.linspace(0, 1, 176))[:, :3]
    greys = np.linspace(0, 1, 32)[:, None].repeat(3, axis=1)
    marks = np.array([to_rgb(mark) for mark in (SATURATED, SPIKE, TAKEN_BACK)])[:, None]
    fading = marks + np.linspace(0, 1, 16)[:, None] * (1 - marks)  # [3, 16, 3]
    colours = np.concatenate([rates, greys, fading.reshape(-1, 3)])
    return (255 * colours).round().astype(np.uint8).tobytes()


def spread(count: int, most: int) -> list[int]:
    """Return at most so many of the numbers below `count`, evenly spread, first and last included.

    Example:
        >>> spread(10, 4), spread(2, 4), spread(5, 1)
        ([0, 3, 6, 9], [0, 1], [0])
    """
    if count <= most:
        return list(range(count))
    if most == 1:
        return [0]
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def mark_steps(axes: Any, labels: Sequence[str], centres: Sequence[float], most: int = 9) -> None:
    """Label the denoising steps of a time axis, as many as have room.

    Args:
        axes: Where.
        labels: Of every step.
        centres: Where on the axis every step is.
        most: Labels, at most.
    """
    timed = [i for i, label in enumerate(labels) if label != "once"]
    chosen = [timed[i] for i in spread(len(timed), most)]
    once = [i for i, label in enumerate(labels) if label == "once"]
    room = len(labels) / most / 2
    shown = [i for i in chosen if all(abs(i - other) > room for other in once)] + once
    axes.set_xticks([centres[i] for i in shown], [labels[i] for i in shown], fontsize=7)
