"""Everything that was seen, in a folder: pictures, and one page that holds them all."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from spikediff.inspection.layer_plot import plot_layer
from spikediff.inspection.page import make_page
from spikediff.inspection.plots import plot_dead_and_saturated, plot_firing_rates, plot_rate_maps
from spikediff.inspection.record import SpikeRecord

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
