"""The page's views of a moment, as HTML without scripts: pictures, rasters, energies."""

import base64
from collections.abc import Mapping
from html import escape

from PIL import Image, ImageOps

from spikediff.energy import Comparison
from spikediff.energy.report import EnergyReport
from spikediff.inspection.plots import png_of
from spikediff.web.studio import Moment, Raster

STYLE = """
.sd-row { display: flex; flex-wrap: wrap; gap: 20px; align-items: flex-start; }
.sd-row > .sd-image { flex: 0 1 300px; } .sd-row > .sd-spikes { flex: 1 1 300px; min-width: 0; }
.sd-images { display: grid; grid-template-columns: repeat(4, 1fr); gap: 8px; max-width: 560px; }
.sd-row img, .sd-images img { display: block; width: 100%; image-rendering: pixelated;
  border-radius: 4px; }
.sd-image img { border: 1px solid var(--border-color-primary); }
.sd-spikes img { height: 72px; background: white; margin: 2px 0 10px; }
.sd-note { font-size: 13px; opacity: 0.75; margin: 6px 0; }
.sd-layer { font-size: 13px; display: flex; justify-content: space-between; gap: 8px; }
.sd-layer span:first-child { overflow: hidden; text-overflow: ellipsis; }
.sd-energy, .sd-energy tr, .sd-energy td, .sd-energy th { border: 0 !important; }
.sd-energy { width: 100%; max-width: 760px; border-collapse: collapse; font-size: 14px; }
.sd-energy td { padding: 3px 8px 3px 0 !important; vertical-align: middle; line-height: 1.3; }
.sd-energy td:nth-child(2) { text-align: right; white-space: nowrap; }
.sd-energy td:nth-child(3) { width: 38%; }
.sd-energy i { display: block; height: 12px; min-width: 2px; border-radius: 2px; }
.sd-energy th { text-align: left; font-weight: 600; padding: 12px 0 3px !important; }
.sd-blank { height: 300px; display: grid; place-items: center;
  opacity: 0.6; border: 1px dashed
  var(--border-color-primary); border-radius: 6px; }
footer { display: none !important; }
"""
BLANK = '<div class="sd-blank">The picture will appear here.</div>'
_COLOURS = ("#c0152b", "#2166ac", "#2a7a4b")
_SPIKING, _ORDINARY = "#2166ac", "#9a9a9a"
_SPIKING_ROWS = {"spiking": "spiking network", "spiking_by_changes": "spiking, changes only"}
_PLAIN_ROWS = {"ordinary": "ordinary network", **_SPIKING_ROWS}
_WHOLE_ROWS = {"quantised": "ordinary network, quantised", **_SPIKING_ROWS}


def generation(moment: Moment) -> str:
    """Return the image beside the spikes so far, and its energy below them."""
    (image,) = moment.images
    spikes = "".join(
        _raster(raster, colour) for raster, colour in zip(moment.rasters, _COLOURS, strict=False)
    )
    beside = f'<div class="sd-spikes">{spikes}</div>' if spikes else ""
    return (
        f'<div class="sd-row"><div class="sd-image">{_img(image, "generated")}{_progress(moment)}'
        f"</div>{beside}</div>{energies(moment.energy)}"
    )


def several(moment: Moment, first_seed: int) -> str:
    """Return images side by side, by their seeds, and the energy of the first below them."""
    images = "".join(
        f'<div>{_img(image, f"seed {seed}")}<div class="sd-note">seed {seed}</div></div>'
        for seed, image in enumerate(moment.images, first_seed)
    )
    grid = f'<div class="sd-images">{images}</div>'
    return f"{grid}{_progress(moment)}{energies(moment.energy)}"


def energies(comparison: Comparison | None) -> str:
    """Return bars of the energy of an image, spiking and ordinary, once it is measured."""
    if comparison is None:
        return ""
    plain = {key: column.plain for key, column in comparison.columns.items()}
    whole = {key: column.whole for key, column in comparison.columns.items()}
    return (
        f'<table class="sd-energy">{_bars("float32", _PLAIN_ROWS, plain)}'
        f"{_bars('integers, 8-bit weights', _WHOLE_ROWS, whole)}</table>"
        '<div class="sd-note">Arithmetic of this image in '
        f"microjoules, 45 nm. Quantised: activations of {comparison.activation_bits} bits, as many "
        "as the spikes carry. Memory is not counted.</div>"
    )


def _bars(title: str, labels: Mapping[str, str], reports: Mapping[str, EnergyReport | None]) -> str:
    """Return a bar for each report there is, in microjoules per image."""
    shown = {key: report for key in labels if (report := reports[key]) is not None}
    energies = {key: report.energy_per_image_pj / 1e6 for key, report in shown.items()}
    most = max(energies.values(), default=1.0)
    rows = f'<tr><th colspan="3">{title}</th></tr>'
    for key, energy in energies.items():
        colour = _SPIKING if key.startswith("spiking") else _ORDINARY
        rows += (
            f"<tr><td>{labels[key]}</td><td>{energy:,.2f} µJ</td>"
            f'<td><i style="width:{energy / most:.1%};background:{colour}"></i></td></tr>'
        )
    return rows


def _progress(moment: Moment) -> str:
    words = f"finished in {moment.seconds:.1f} s" if moment.seconds else "at work"
    return f'<div class="sd-note">step {moment.step} of {moment.steps}, {words}</div>'


def _raster(raster: Raster, colour: str) -> str:
    picture = ImageOps.colorize(raster.picture, colour, "white")
    return (
        f'<div class="sd-layer"><span>{escape(raster.layer)}</span>'
        f"<span>rate {raster.rate:.1%}</span></div>{_img(picture, f'spikes of {raster.layer}')}"
    )


def _img(image: Image.Image, what: str) -> str:
    data = base64.b64encode(png_of(image)).decode()
    return f'<img alt="{escape(what)}" src="data:image/png;base64,{data}">'
