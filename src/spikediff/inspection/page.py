"""The report on what was recorded: pictures in a folder, and one page of HTML that holds them all.

The page needs no file beside it, no network and no script.
"""

import base64
import re
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment
from PIL import Image

from spikediff import __version__
from spikediff.inspection.layer_plot import plot_layer
from spikediff.inspection.plots import (
    largest_of,
    plot_dead_and_saturated,
    plot_firing_rates,
    plot_rate_maps,
    plot_steps,
    png_of,
    spread,
)
from spikediff.inspection.record import SpikeRecord

_TEMPLATE = Path(__file__).with_name("page.html.jinja")
_MOST = 50  # maps of a layer, one a denoising step


def write_report(
    record: SpikeRecord,
    folder: Path,
    title: str,
    settings: Mapping[str, object],
    images: Image.Image | None = None,
) -> list[Path]:
    """Draw what was recorded; return the files, the page last.

    Args:
        record: What was recorded.
        folder: Where; it is created. `index.html` holds everything, `layers/` one picture a layer.
        title: Name of the run.
        settings: What was done, by name.
        images: A grid of the images that were generated meanwhile.

    Raises:
        UserError: No layer ran.
    """
    drawn = {
        "images": None if images is None else png_of(images),
        "firing_rates": plot_firing_rates(record),
        "dead_and_saturated": plot_dead_and_saturated(record),
        "rate_maps": plot_rate_maps(record),
    }
    overview = {name: png for name, png in drawn.items() if png is not None}
    layers = {layer.name: plot_layer(record, layer.name) for layer in record.seen}
    content = {f"{name}.png": png for name, png in overview.items()}
    for number, (name, png) in enumerate(layers.items()):
        content[f"layers/{number:03d}-{re.sub(r'[^0-9A-Za-z._-]+', '_', name)}.png"] = png
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
