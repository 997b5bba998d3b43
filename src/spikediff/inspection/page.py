"""One page of HTML with everything in it: no file beside it, no network, also without script.

Everything that was seen, in a folder: pictures, and one page that holds them all.
"""

import base64
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

from spikediff import __version__
from spikediff.inspection.layer_plot import plot_layer
from spikediff.inspection.plots import (
    colours_of,
    largest_of,
    plot_dead_and_saturated,
    plot_firing_rates,
    plot_rate_maps,
    spread,
)
from spikediff.inspection.record import LayerRecord, SpikeRecord

_ACROSS, _GAP, _MOST = 25, 1, 50  # maps in a row of a strip, pixels between two, maps in a strip
_TIMES = "\u00d7"
_MAP = 32  # pixels, about, that a map of the strip is shown in
# The page may show what it holds and nothing else: a browser refuses to fetch anything.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_CAPTIONS = {
    "firing_rates": "Firing rate by layer and denoising step: how many of the layer's neurons "
    "fire at a spiking step. Grey: the layer did not run.",
    "dead_and_saturated": "Neurons that never fired in all that was observed, and neurons that "
    "fired at every spiking step of every image. More images make either rarer.",
    "rate_maps": "Firing rate by place, averaged over channels, spiking steps and images. Every "
    "row has its own scale, dark for 0, bright for the number at its end.",
}


def make_page(
    record: SpikeRecord,
    title: str,
    settings: Mapping[str, object],
    overview: Mapping[str, bytes],
    layers: Mapping[str, bytes],
) -> str:
    """Return the page.

    Args:
        record: What was seen.
        title: Name of the run.
        settings: What was done, by name.
        overview: PNGs of all layers by name, as `spikediff.inspection.page` draws them.
        layers: PNG of every layer, by its name.
    """
    numbered = list(enumerate(record.seen))
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Spikes of {escape(title)}</title>",
            '<link rel="icon" href="data:,">',
            f"<style>{_file('page.css')}</style></head><body>",
            f"<header><h1>Spikes of {escape(title)}</h1>{_settings(settings)}</header>",
            '<main><section id="overview"><h2>All layers</h2>',
            *(_figure(data, _CAPTIONS[name], name) for name, data in overview.items()),
            _table(record, numbered),
            _not_called(record.not_called),
            "</section><h2>Layer by layer</h2>",
            _controls(numbered),
            *(_layer(number, layer, record, layers[layer.name]) for number, layer in numbered),
            f"</main><footer>spikediff {__version__}, <code>spikediff inspect</code></footer>",
            f"<script>{_file('page.js')}</script></body></html>\n",
        ]
    )


def _file(name: str) -> str:
    return files("spikediff.inspection").joinpath(name).read_text(encoding="utf-8")


def _settings(settings: Mapping[str, object]) -> str:
    rows = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>"
        for name, value in settings.items()
    )
    return f"<dl>{''.join(rows)}</dl>"


def _figure(data: bytes, caption: str, name: str) -> str:
    return (
        f'<figure><img class="drawn" id="{escape(name)}" alt="{escape(caption)}" '
        f'src="{_inline(data)}"><figcaption>{escape(caption)}</figcaption></figure>'
    )


def _inline(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _table(record: SpikeRecord, numbered: Iterable[tuple[int, LayerRecord]]) -> str:
    head = (
        '<th>layer</th><th class="words">neuron</th><th>shape</th><th>neurons</th>'
        "<th>fires</th><th>by step</th><th>dead</th><th>saturated</th>"
    )
    rows = (
        f'<tr data-layer="{number}"><td><a href="#layer-{number}">{escape(layer.name)}</a></td>'
        f'<td class="words">{escape(layer.neuron)}</td>'
        f"<td>{_shape(layer)}</td><td>{layer.neurons:,}</td>"
        f"<td>{layer.rate:.1%}</td><td>{_line(layer.rates(len(record.timesteps)))}</td>"
        f"<td>{layer.dead:.1%}</td><td>{layer.saturated:.1%}</td></tr>"
        for number, layer in numbered
    )
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _shape(layer: LayerRecord) -> str:
    return _TIMES.join(map(str, layer.shape))


def _line(rates: Sequence[float]) -> str:
    """Return a small curve over the denoising steps, from 0 to the layer's largest rate."""
    seen = [rate for rate in rates if rate == rate]
    if len(seen) < 2:
        return ""
    top = max(seen) or 1.0
    points = " ".join(
        f"{100 * i / (len(seen) - 1):.1f},{19 - 18 * r / top:.1f}" for i, r in enumerate(seen)
    )
    return (
        f'<svg class="line" viewBox="0 0 100 20" preserveAspectRatio="none" role="img" '
        f'aria-label="from {seen[0]:.1%} to {seen[-1]:.1%}"><polyline points="{points}"/></svg>'
    )


def _not_called(names: Sequence[str]) -> str:
    if not names:
        return ""
    return f'<p class="facts">Did not run: {escape(", ".join(names))}.</p>'


def _controls(numbered: Iterable[tuple[int, LayerRecord]]) -> str:
    choices = "".join(
        f'<option value="{number}">{escape(layer.name)}</option>' for number, layer in numbered
    )
    return (
        '<div class="controls" hidden>'
        f'<label>layer <select id="choose-layer">{choices}</select></label>'
        '<label>denoising step <input id="choose-step" type="range" min="0" value="0"></label>'
        '<output id="chosen-step"></output></div>'
    )


def _layer(number: int, layer: LayerRecord, record: SpikeRecord, picture: bytes) -> str:
    ran = sorted(layer.steps)
    shown = [ran[i] for i in spread(len(ran), _MOST)]
    rates = layer.rates(len(record.timesteps))
    told: dict[str, object] = {
        "steps": [_step_name(record, step) for step in shown],
        "rates": [round(rates[step], 5) for step in shown],
    }
    strip = ""
    if len(layer.shape) == 3:
        _, height, width = layer.shape
        told["map"] = {"width": width, "height": height, "across": _ACROSS, "gap": _GAP}
        strip = _strip(layer, shown)
    shape = f"{_shape(layer)} = " if len(layer.shape) > 1 else ""
    text = (
        f"{layer.neuron}; {shape}{layer.neurons:,} neurons, each seen at {layer.observed:,} "
        f"spiking steps; fires {layer.rate:.1%}, dead {layer.dead:.1%}, "
        f"saturated {layer.saturated:.1%}"
    )
    return (
        f'<section class="layer" id="layer-{number}" data-facts="{escape(json.dumps(told))}">'
        f'<h3>{escape(layer.name)}</h3><p class="facts">{escape(text)}</p>{strip}'
        f'<figure><img class="drawn" src="{_inline(picture)}" '
        f'alt="rates, raster and membranes of {escape(layer.name)}"></figure></section>'
    )


def _step_name(record: SpikeRecord, step: int) -> str:
    timestep = record.timesteps[step]
    return "once" if timestep is None else f"t = {timestep:g}"


def _strip(layer: LayerRecord, steps: Sequence[int]) -> str:
    """Return the maps of the steps, row by row, in the layer's own scale."""
    _, height, width = layer.shape
    scale, rows = largest_of(layer), -(-len(steps) // _ACROSS)
    across = min(_ACROSS, len(steps))
    canvas = np.full((rows * (height + _GAP), across * (width + _GAP), 3), 128, np.uint8)
    for i, step in enumerate(steps):
        top, left = i // _ACROSS * (height + _GAP), i % _ACROSS * (width + _GAP)
        rates = layer.map_of(step)
        assert rates is not None
        canvas[top : top + height, left : left + width] = colours_of(rates, scale)
    packed = io.BytesIO()
    picture = Image.fromarray(canvas[:-_GAP, :-_GAP])
    picture.quantize(256, dither=Image.Dither.NONE).save(packed, "PNG", optimize=True)
    shown = max(1, round(_MAP / width)) * picture.width
    return (
        f'<div class="maps"><div class="strip"><div class="frames"><img width="{shown}" '
        f'alt="firing rate by place, one map a denoising step" src="{_inline(packed.getvalue())}">'
        '<span class="mark"></span></div>'
        f'<p class="facts">by place, one map a denoising step, left to right: 0 '
        f'<span class="scale"></span> {scale:.1%}</p></div></div>'
    )


PICTURES: dict[str, Callable[[SpikeRecord], bytes | None]] = {
    "firing_rates": plot_firing_rates,
    "dead_and_saturated": plot_dead_and_saturated,
    "rate_maps": plot_rate_maps,
}


def write_report(
    record: SpikeRecord, folder: Path, title: str, settings: Mapping[str, object]
) -> list[Path]:
    """Draw what was seen.

    Args:
        record: What was seen.
        folder: Where; it is made. `index.html` holds everything, `layers/` one picture a layer.
        title: Name of the run.
        settings: What was done, by name.

    Returns:
        The files, the page last.

    Raises:
        UserError: No layer ran.
    """
    drawn = {name: draw(record) for name, draw in PICTURES.items()}
    overview = {name: png for name, png in drawn.items() if png is not None}
    layers = {layer.name: plot_layer(record, layer.name) for layer in record.seen}
    content = {f"{name}.png": png for name, png in overview.items()}
    for number, (name, png) in enumerate(layers.items()):
        content[f"layers/{number:03d}-{re.sub(r'[^0-9A-Za-z._-]+', '_', name)}.png"] = png
    page = make_page(record, title, settings, overview, layers)
    content["index.html"] = page.encode()
    (folder / "layers").mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in content]
