"""The pictures: what they show where, not only that they are there."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image

from spikediff.errors import UserError
from spikediff.inspection import SpikeRecord, write_report
from spikediff.inspection.plots import (
    DEAD,
    INK,
    SATURATED,
    SPIKE,
    colours_of,
    largest_of,
    mark_steps,
    new_figure,
    plot_firing_rates,
    plot_rate_maps,
)

PLACES = "parts.<i>&"  # 2 of 8 columns always fire, 1 never
DARK, BRIGHT = (68, 1, 84), (253, 231, 37)  # the ends of the scale


@pytest.fixture
def pixels(report):
    def read(name):
        return np.asarray(Image.open(report[0] / name).convert("RGB")).astype(int)

    return read


def near(picture, colour, by=6):
    """Return where a picture has a colour, as "#rrggbb" or a triple."""
    if isinstance(colour, str):
        colour = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return (np.abs(picture - np.array(colour)) <= by).all(-1)


def test_colours_are_those_of_the_scale():
    shown = colours_of(torch.tensor([[0.0, 0.25, 0.5, 0.9]]), 0.5)[0]
    expected = [[round(255 * c) for c in colormaps["viridis"](x)[:3]] for x in (0.0, 0.5, 1.0, 1.0)]
    assert np.abs(shown - np.array(expected)).max() <= 2


def test_the_brightest_cell_is_the_largest_rate(record, pixels):
    picture = pixels("firing_rates.png")
    assert (picture[0, 0] == 255).all()  # paper is white
    rates = np.array([layer.rates(4) for layer in record.seen])
    assert np.unravel_index(rates.argmax(), rates.shape) == (0, 0)
    height, width, _ = picture.shape
    ys, xs = np.nonzero(near(picture[:, : int(0.85 * width)], BRIGHT))  # without the scale's bar
    assert ys.size > 0.02 * height * width
    assert ys.max() < 0.5 * height
    assert xs.max() < 0.4 * width


def test_pictures_read_in_a_light_and_in_a_dark_theme(report):
    _, files = report
    for path in files[1:-1]:  # but the generated images and the page
        corner = Image.open(path).convert("RGBA").getpixel((0, 0))
        assert corner[3] == 0, f"{path} has paper of its own"
    assert "background: #fff" not in files[-1].read_text(encoding="utf-8")
    light = [int(INK[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in light]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]  # WCAG 2.2
    on_white, on_dark = 1.05 / (luminance + 0.05), (luminance + 0.05) / (0.006 + 0.05)
    assert min(on_white, on_dark) > 4


def test_bars_are_as_long_as_the_shares(record, pixels):
    picture = pixels("dead_and_saturated.png")
    layer = record.layers[PLACES]
    assert (layer.dead, layer.saturated) == (1 / 8, 2 / 8)
    rows = picture[int(0.15 * len(picture)) :]  # without the legend
    dead, saturated = (near(rows, colour).sum(1).max() for colour in (DEAD, SATURATED))
    assert saturated == pytest.approx(2 * dead, rel=0.02)


def test_maps_are_bright_where_neurons_fire(record, pixels):
    layer, picture = record.layers[PLACES], pixels("rate_maps.png")
    assert largest_of(layer) == 1.0
    rates = layer.map_of()
    assert rates[:, :2].min() == 1.0
    assert rates[:, 7].max() == 0.0
    bright, dark = near(picture, BRIGHT).sum(), near(picture, DARK).sum()
    # Of 8 columns in 5 maps, 2 are bright; 1 is dark in the first three and 6 in the last two.
    assert dark / bright == pytest.approx((3 * 1 + 2 * 6) / (5 * 2), rel=0.05)


def test_a_layer_shows_its_spikes(record, pixels):
    picture = pixels("layers/000-parts._i_.png")
    raster = record.layers[PLACES].raster().float()  # [N, K]
    frame = picture[61:272, 452:1083]
    cells = frame[:: len(frame) // 24, ::3]
    assert near(cells, (0, 0, 0), 40).mean() == pytest.approx(raster.mean().item(), abs=0.04)
    assert near(picture[330:560, 450:], SPIKE).sum() > 100  # spikes and thresholds


def test_a_layer_without_places_has_no_map(record, pixels):
    assert pixels("layers/001-parts.flat.png").shape == (600, 1100, 3)
    flat = SpikeRecord(record.timesteps, {"parts.flat": record.layers["parts.flat"]})
    assert plot_rate_maps(flat) is None


def test_the_report_is_a_folder_of_pictures_and_a_page(record, report):
    folder, files = report
    assert [path.relative_to(folder).as_posix() for path in files] == [
        "images.png",
        "firing_rates.png",
        "dead_and_saturated.png",
        "rate_maps.png",
        "layers/000-parts._i_.png",
        "layers/001-parts.flat.png",
        "index.html",
    ]
    assert plot_firing_rates(record) == files[1].read_bytes()  # the same twice


def test_an_empty_record_is_refused(tmp_path):
    with pytest.raises(UserError, match="nothing was observed"):
        write_report(SpikeRecord(), tmp_path, "run", {})


@pytest.mark.parametrize("steps", [1, 5, 10, 11, 50, 1000])
def test_labelled_steps_stand_in_even_gaps(steps):
    axes = new_figure(4, 3).add_subplot()
    mark_steps(axes, [f"{t}" for t in range(steps)], range(steps))
    ticks = [int(tick) for tick in axes.get_xticks()]
    assert len({b - a for a, b in pairwise(ticks)}) <= 1
    assert min(steps, 6) <= len(ticks) <= 10
