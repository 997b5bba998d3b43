"""The report of a recording: one picture per layer, and an HTML page that contains all of them.

The page is self-contained: it needs no other files, no network access and no scripts.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from jinja2 import Environment
from PIL import Image
from torch import Tensor

from spikediff import __version__
from spikediff.inspection.plots import (
    INK,
    SPIKE,
    TAKEN_BACK,
    add_scale,
    largest_of,
    mark_steps,
    new_figure,
    plot_dead_and_saturated,
    plot_firing_rates,
    plot_rate_maps,
    plot_steps,
    png,
    png_of,
    spread,
)
from spikediff.inspection.record import LayerRecord, SpikeRecord, Window

_TEMPLATE = Path(__file__).with_name("page.html.jinja")
_MOST = 50  # maps of a layer, one per denoising step


def write_report(
    record: SpikeRecord,
    folder: Path,
    title: str,
    settings: Mapping[str, object],
    images: Image.Image | None = None,
) -> list[Path]:
    """Draw what was recorded; return the files, the page last.

    The folder receives `index.html`, which contains everything, and `layers/`, with one picture per
    layer. `settings` describes the recording, by name; `images` is a grid of the images generated
    during it.
    """
    drawn = {
        "images": None if images is None else png_of(images),
        "firing_rates": plot_firing_rates(record),
        "dead_and_saturated": plot_dead_and_saturated(record),
        "rate_maps": plot_rate_maps(record),
    }
    overview = {name: picture for name, picture in drawn.items() if picture is not None}
    layers = {layer.name: plot_layer(record, layer.name) for layer in record.seen}
    content = {f"{name}.png": picture for name, picture in overview.items()}
    for number, (name, picture) in enumerate(layers.items()):
        content[f"layers/{number:03d}-{re.sub(r'[^0-9A-Za-z._-]+', '_', name)}.png"] = picture
    content["index.html"] = _page(record, title, settings, overview, layers).encode()
    (folder / "layers").mkdir(parents=True, exist_ok=True)
    for file, data in content.items():
        (folder / file).write_bytes(data)
    return [folder / file for file in content]


def _page(
    record: SpikeRecord,
    title: str,
    settings: Mapping[str, object],
    overview: Mapping[str, bytes],
    pictures: Mapping[str, bytes],
) -> str:
    maps, scales = {}, {}
    for layer in record.seen:
        if len(layer.shape) == 3:
            ran = sorted(layer.steps)
            maps[layer.name] = plot_steps(layer, [ran[i] for i in spread(len(ran), _MOST)])
            scales[layer.name] = largest_of(layer)
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page.filters["percent"] = "{:.1%}".format
    page.filters["inline"] = lambda png: f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return page.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        record=record,
        columns=len(record.timesteps),
        title=title,
        settings=settings,
        overview=overview,
        pictures=pictures,
        maps=maps,
        scales=scales,
        version=__version__,
    )


_TRACES, _TRACED_STEPS = 3, 6
_GAP = 1.0  # gap between two windows of a trace, in spiking steps
_BAR = {"pad": 0.03, "fraction": 0.06}


@png
def plot_layer(record: SpikeRecord, name: str) -> Any:
    """Draw one layer.

    Left: the firing rate by place, over all steps, and by channel and denoising step. Right: the
    spikes of the chosen neurons for the first image, and the membranes of three of them in some
    denoising steps: of those that fired, the most active, the median and the least active.
    """
    layer = record.layers[name]
    figure = new_figure(11, 6)
    grid = figure.add_gridspec(
        1, 2, width_ratios=(1, 2.2), left=0.055, right=0.985, bottom=0.085, top=0.9, wspace=0.22
    )
    title = f"{layer.name}   ({layer.neuron}; fires {layer.rate:.1%})"
    figure.suptitle(title, x=0.055, ha="left")
    _draw_rates(figure, grid[0], layer, record)
    right = grid[1].subgridspec(2, 1, hspace=0.3)
    _draw_raster(figure.add_subplot(right[0]), layer, record)
    _draw_traces(figure, right[1], layer, record)
    return figure


def _draw_rates(figure: Any, cell: Any, layer: LayerRecord, record: SpikeRecord) -> None:
    """Draw the firing rate by place, if the layer has places, and by channel below it."""
    rates = layer.map_of()
    if rates is None:
        _draw_channels(figure.add_subplot(cell), layer, record)
        return
    left = cell.subgridspec(2, 1, hspace=0.3)
    axes = figure.add_subplot(left[0])
    add_scale(axes.imshow(100 * rates, vmin=0), **_BAR)
    _label(axes, "by place, over all steps and channels", "x [pixels]", "y [pixels]")
    axes.xaxis.get_major_locator().set_params(integer=True)
    _draw_channels(figure.add_subplot(left[1]), layer, record)


def _draw_channels(axes: Any, layer: LayerRecord, record: SpikeRecord) -> None:
    ran = sorted(layer.steps)
    rates = 100 * layer.channel_rates(len(record.timesteps))[:, ran]
    add_scale(axes.imshow(rates, aspect="auto", vmin=0, interpolation="auto"), **_BAR)
    mark_steps(axes, [record.labels[step] for step in ran], range(len(ran)), most=5)
    _label(axes, "by channel and denoising step", "timestep", "channel")


def _draw_raster(axes: Any, layer: LayerRecord, record: SpikeRecord) -> None:
    """Draw the spikes of the chosen neurons as cells, one column per spiking step."""
    from matplotlib.colors import ListedColormap

    steps = sorted(layer.windows)
    lengths = [len(layer.windows[step].spikes) for step in steps]
    borders = [0, *accumulate(lengths)]
    axes.imshow(
        layer.raster().T,
        aspect="auto",
        cmap=ListedColormap([TAKEN_BACK, "white", "black"]),
        vmin=-1,
        vmax=1,
        interpolation="auto",
        interpolation_stage="rgba",
        extent=(0, borders[-1], len(layer.units), 0),
    )
    if len(steps) <= 100:
        axes.vlines(borders[1:-1], 0, len(layer.units), color="0.75", linewidth=0.5)
    centres = [(a + b) / 2 for a, b in pairwise(borders)]
    mark_steps(axes, [record.labels[step] for step in steps], centres)
    kinds = " or ".join(sorted({f"{length}" for length in lengths}))
    _label(
        axes,
        f"spikes of {len(layer.units)} chosen neurons, first image",
        f"timestep; one column a spiking step, {kinds} a denoising step",
        "chosen neuron",
    )


def _draw_traces(figure: Any, cell: Any, layer: LayerRecord, record: SpikeRecord) -> None:
    """Draw the membranes of three neurons, one below the other."""
    ran = sorted(layer.windows)
    steps = [ran[i] for i in spread(len(ran), _TRACED_STEPS)]
    chosen = traced_neurons(layer.raster())
    rows = cell.subgridspec(len(chosen), 1, hspace=0.4)
    for row, k in enumerate(chosen):
        axes = figure.add_subplot(rows[row])
        centres = _draw_trace(axes, [layer.windows[step] for step in steps], k)
        axes.set_title(layer.unit_name(k), fontsize=7, loc="right", pad=2)
        if row == 0:
            axes.set_title("membranes: ● spike, - - threshold; every window starts at rest")
        if row == len(chosen) // 2:
            axes.set_ylabel("membrane")
        if row < len(chosen) - 1:
            axes.set_xticks(centres, [""] * len(centres))
        else:
            mark_steps(axes, [record.labels[step] for step in steps], centres)
            axes.set_xlabel("timestep")


def _draw_trace(axes: Any, windows: Sequence[Window], k: int) -> list[float]:
    """Draw the membrane of one neuron, one window after another; return the windows' centres."""
    start, centres = 0.0, []
    for window in windows:
        u, v, spikes = window.u[:, k].tolist(), window.v[:, k].tolist(), window.spikes[:, k]
        times = [start, *(start + n for n in range(1, len(u) + 1) for _ in range(2))]
        path = [v[0], *(value for pair in zip(u, v[1:], strict=True) for value in pair)]
        axes.plot(times, path, color=INK, linewidth=0.9)
        for sign, colour in ((1, SPIKE), (-1, TAKEN_BACK)):
            fired = [n for n, spike in enumerate(spikes.tolist()) if spike == sign]
            places = [start + 1 + n for n in fired]
            axes.plot(places, [u[n] for n in fired], "o", color=colour, markersize=3)
        lines = [window.v_threshold]
        if window.v_negative is not None:
            lines.append(-window.v_negative)
        end = start + len(u)
        axes.hlines(lines, start, end, color=SPIKE, linewidth=0.7, linestyles="dashed")
        centres.append((start + end) / 2)
        start = end + _GAP
    axes.set_xlim(-_GAP / 2, start - _GAP / 2)
    axes.margins(y=0.12)
    return centres


def traced_neurons(raster: Tensor) -> list[int]:
    """Return the neurons to trace: of those that fired, the most active, median and least active.

    The raster of spikes is [N, K]; the result has up to three indices. Silent neurons follow if
    fewer than three fired.

    Example:
        >>> import torch
        >>> traced_neurons(torch.tensor([[0, 1, 0, 1, 1], [0, 0, 0, 1, 0], [0, 1, 0, 1, 0]]))
        [3, 1, 4]
        >>> traced_neurons(torch.tensor([[0, 1]]))
        [1, 0]
    """
    counts = raster.abs().sum(0)
    order = counts.argsort(descending=True, stable=True).tolist()
    fired = int((counts > 0).sum())
    picks = [order[i] for i in spread(fired, _TRACES)] if fired else []
    silent = [k for k in order if k not in picks and counts[k] == 0]
    return picks + silent[: _TRACES - len(picks)]


def _label(axes: Any, title: str, x: str, y: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.yaxis.get_major_locator().set_params(integer=True)
