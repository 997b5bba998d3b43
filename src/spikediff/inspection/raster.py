"""A raster as a plain picture: a row a neuron, a column a spiking step, a dot a spike."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from PIL import Image

from spikediff.inspection.record import LayerRecord, SpikeRecord


def busiest(record: SpikeRecord, count: int) -> list[LayerRecord]:
    """Return the `count` layers that fire most, among those with the commonest number of steps."""
    lengths = [len(layer.raster()) for layer in record.seen]
    (common, _), *_ = Counter(lengths).most_common(1)
    alike = [layer for layer, n in zip(record.seen, lengths, strict=True) if n == common]
    return sorted(alike, key=lambda layer: layer.rate, reverse=True)[:count]


def raster_image(
    layers: Sequence[LayerRecord], dot: tuple[int, int], columns: int | None = None
) -> Image.Image:
    """Return the spikes so far of the chosen neurons, black on white, layer below layer.

    Args:
        layers: Layers that ran equally often.
        dot: Width and height of a spike in pixels.
        columns: Spiking steps that the picture has room for; those that ran by default.
    """
    spikes = np.concatenate([layer.raster().numpy().T for layer in layers])  # [K, steps]
    page = np.zeros((len(spikes), columns or spikes.shape[1]))
    seen = spikes[:, : page.shape[1]]
    page[:, : seen.shape[1]] = seen
    dots = np.kron(np.where(page != 0, 0, 255), np.ones(dot[::-1]))
    return Image.fromarray(dots.astype(np.uint8))
