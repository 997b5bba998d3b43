"""Pictures of all layers at once: firing rates, dead and saturated neurons, rate maps, rasters."""

import io
from collections import Counter
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from spikediff.inspection.record import LayerRecord, SpikeRecord

RATES = "viridis"  # colours of firing rates, dark to bright
BARS = "#31688e"  # a colour from it, for bars
INK = "#6e7b8b"  # colour of text and lines, legible on white and on black
DEAD, SATURATED, SPIKE, TAKEN_BACK = "#7f7f7f", "#d95f02", "#c0152b", "#2166ac"
_STYLE = {
    "figure.dpi": 100,
    "savefig.dpi": 100,
    "font.size": 7,
    "figure.titlesize": 10,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 8,
    **dict.fromkeys(("figure.facecolor", "savefig.facecolor", "axes.facecolor"), "none"),
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), INK),
    "image.cmap": RATES,
    "image.interpolation": "nearest",
}
P = ParamSpec("P")


def png(draw: Callable[P, Any]) -> Callable[P, bytes]:
    """Turn a function that returns a figure into one that returns a PNG in our style."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> bytes:
        from matplotlib import rc_context

        with rc_context(_STYLE), io.BytesIO() as file:
            draw(*args, **kwargs).savefig(file)
            return file.getvalue()

    return drawn


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure of a size in inches."""
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    return Figure(figsize=(width, height))


def spread(count: int, most: int) -> list[int]:
    """Return at most `most` numbers below `count`, evenly spaced, including first and last.

    Example:
        >>> spread(10, 4), spread(2, 4), spread(5, 1)
        ([0, 3, 6, 9], [0, 1], [0])
    """
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / max(1, most - 1)) for i in range(most)]


def mark_steps(axes: Any, labels: Sequence[str], centres: Sequence[float], most: int = 10) -> None:
    """Label at most `most` denoising steps of a time axis, evenly spaced, at their centres."""
    timed = [i for i, label in enumerate(labels) if label != "once"]
    chosen = timed[:: max(1, -(-len(timed) // most))]
    once = [i for i, label in enumerate(labels) if label == "once"]
    room = len(labels) / most / 2
    shown = [i for i in chosen if all(abs(i - other) > room for other in once)] + once
    axes.set_xticks([centres[i] for i in shown], [labels[i] for i in shown])


def add_scale(image: Any, **options: Any) -> None:
    """Add a colour bar of firing rates to an image."""
    axes = image.axes
    axes.figure.colorbar(image, ax=axes, **options).set_label("firing rate [%]")


_CELL, _GAP = 32, 3  # size of a map in the mosaic and gap between maps, in pixels
_SHOWN_STEPS = 7
_ACROSS = 25  # maps per row in a picture of all steps


@png
def plot_firing_rates(record: SpikeRecord) -> Any:
    """Draw the firing rates by layer and denoising step: a heat map, or bars for a single step."""
    layers, columns = record.seen, len(record.timesteps)
    rates = 100 * np.array([layer.rates(columns) for layer in layers])
    axes = _axes_by_layer(layers)
    if columns == 1:
        bars = axes.barh(range(len(layers)), rates[:, 0], color=BARS)
        axes.bar_label(bars, fmt="%.1f", padding=3)
        axes.margins(x=0.1)
        axes.set_xlabel("firing rate [% of the neurons per spiking step]")
        return axes.figure
    axes.set_facecolor((0.5, 0.5, 0.5, 0.25))  # where a layer did not run
    image = axes.imshow(rates, aspect="auto", vmin=0)
    mark_steps(axes, record.labels, range(columns))
    axes.set_xlabel("timestep of the denoising step (noise on the left, image on the right)")
    add_scale(image, pad=0.015, aspect=30)
    return axes.figure


@png
def plot_dead_and_saturated(record: SpikeRecord) -> Any:
    """Draw the shares of neurons that never fired and that always fired, by layer."""
    layers = record.seen
    dead = 100 * np.array([layer.dead for layer in layers])
    saturated = 100 * np.array([layer.saturated for layer in layers])
    rows = range(len(layers))
    axes = _axes_by_layer(layers)
    axes.barh(rows, dead, color=DEAD, label="dead: never fired")
    axes.barh(rows, saturated, left=dead, color=SATURATED, label="saturated: always fired")
    for row, (never, always) in enumerate(zip(dead, saturated, strict=True)):
        if never + always > 0:
            axes.text(never + always, row, f" {never:.1f} | {always:.1f}", va="center")
    axes.set_xlim(0, max(5.0, 1.2 * float((dead + saturated).max())))
    axes.set_xlabel("share of the layer's neurons [%], written dead | saturated")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    return axes.figure


def plot_rate_maps(record: SpikeRecord) -> bytes | None:
    """Draw rate maps of all layers, over all steps and for some steps; each row has its own scale.

    Return the PNG; None if no layer has places.
    """
    layers = [layer for layer in record.seen if len(layer.shape) == 3]
    return _plot_mosaic(record, layers) if layers else None


@png
def _plot_mosaic(record: SpikeRecord, layers: Sequence[LayerRecord]) -> Any:
    steps = spread(len(record.timesteps), _SHOWN_STEPS)
    columns = [None, *steps] if len(steps) > 1 else [None]
    scales = [largest_of(layer) for layer in layers]
    rows = [_row(layer, columns, scale) for layer, scale in zip(layers, scales, strict=True)]
    longest = max(len(layer.name) for layer in layers)
    axes = _mosaic_axes(np.concatenate(rows), left=0.3 + 0.057 * longest)
    middles = [(_CELL + _GAP) * i + _CELL / 2 for i in range(max(len(layers), len(columns)))]
    axes.set_yticks(middles[: len(layers)], [layer.name for layer in layers])
    labels = [label if label == "once" else f"t = {label}" for label in record.labels]
    names = ["all steps" if c is None else labels[c] for c in columns]
    axes.set_xticks(middles[: len(columns)], names)
    right = axes.get_yaxis_transform()
    for middle, scale in zip(middles, scales, strict=False):
        axes.text(1.01, middle, f"0 to {100 * scale:.3g} %", transform=right, va="center")
    return axes.figure


def _mosaic_axes(mosaic: NDArray[np.uint8], left: float) -> Any:
    """Return axes that show a mosaic [H, W, 3], with room for names on the left, in inches."""
    height, width = (pixels / 55 for pixels in mosaic.shape[:2])
    right, top, bottom = 1.0, 0.4, 0.1
    figure = new_figure(left + width + right, bottom + height + top)
    whole = figure.get_size_inches()
    box = (left / whole[0], bottom / whole[1], width / whole[0], height / whole[1])
    axes = figure.add_axes(box)
    axes.imshow(mosaic, aspect="auto")
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    axes.spines[:].set_visible(False)
    return axes


def largest_of(layer: LayerRecord) -> float:
    """Return the largest rate at a place in a denoising step: the upper end of the colour scale."""
    maps = [layer.map_of(step) for step in layer.steps]
    return max((float(m.max()) for m in maps if m is not None), default=0.0)


def colours_of(rates: Tensor, scale: float) -> NDArray[np.uint8]:
    """Return a map of rates as colours [H, W, 3], dark for 0 and bright for `scale`."""
    from matplotlib import colormaps

    table = (255 * colormaps[RATES](np.linspace(0, 1, 256))[:, :3]).round().astype(np.uint8)
    levels = (255 * rates / (scale or 1.0)).round().clamp(0, 255).to(torch.uint8).numpy()
    picture: NDArray[np.uint8] = table[levels]
    return picture


def _row(layer: LayerRecord, columns: Sequence[int | None], scale: float) -> NDArray[np.uint8]:
    """Return a row of the mosaic [CELL + GAP, W, 3]."""
    row = np.full((_CELL + _GAP, (_CELL + _GAP) * len(columns) - _GAP, 3), 255, np.uint8)
    for i, column in enumerate(columns):
        if column is None or column in layer.steps:
            rates = layer.map_of(column)
            assert rates is not None
            cell = F.interpolate(rates[None, None].float(), size=(_CELL, _CELL), mode="nearest")
            left = (_CELL + _GAP) * i
            row[:_CELL, left : left + _CELL] = colours_of(cell[0, 0], scale)
    return row


def plot_steps(layer: LayerRecord, steps: Sequence[int]) -> bytes:
    """Return the maps of some denoising steps as a PNG, row by row, in the layer's own scale."""
    columns, scale = [*steps, *[-1] * (-len(steps) % min(_ACROSS, len(steps)))], largest_of(layer)
    rows = [_row(layer, columns[i : i + _ACROSS], scale) for i in range(0, len(columns), _ACROSS)]
    return png_of(Image.fromarray(np.concatenate(rows)[:-_GAP]))


def png_of(image: Image.Image) -> bytes:
    """Return a picture as the content of a PNG file."""
    with io.BytesIO() as file:
        image.save(file, "PNG", optimize=True)
        return file.getvalue()


def _axes_by_layer(layers: Sequence[LayerRecord]) -> Any:
    """Return axes with one row per layer, the first on top."""
    figure = new_figure(9, 1.2 + 0.17 * max(6, len(layers)))
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    axes.set_yticks(range(len(layers)), [layer.name for layer in layers])
    axes.set_ylim(len(layers) - 0.5, -0.5)
    return axes


def busiest(record: SpikeRecord, count: int) -> list[LayerRecord]:
    """Return the `count` layers that fire most, of those with the most common number of steps."""
    lengths = [len(layer.raster()) for layer in record.seen]
    (common, _), *_ = Counter(lengths).most_common(1)
    alike = [layer for layer, n in zip(record.seen, lengths, strict=True) if n == common]
    return sorted(alike, key=lambda layer: layer.rate, reverse=True)[:count]


def raster_image(
    layers: Sequence[LayerRecord], dot: tuple[int, int], columns: int | None = None
) -> Image.Image:
    """Return the spikes so far of the chosen neurons, black on white, one layer below another.

    All layers must have run equally often. A spike is a dot of the given width and height in
    pixels. The picture has room for `columns` spiking steps, by default for those that ran.
    """
    spikes = np.concatenate([layer.raster().numpy().T for layer in layers])  # [K, steps]
    page = np.zeros((len(spikes), columns or spikes.shape[1]))
    seen = spikes[:, : page.shape[1]]
    page[:, : seen.shape[1]] = seen
    dots = np.kron(np.where(page != 0, 0, 255), np.ones(dot[::-1]))
    return Image.fromarray(dots.astype(np.uint8))
