"""Crop, resize, channels: one definition, and a fast path that equals it."""

import numpy as np
import pytest
import torch
from PIL import Image

from spikediff.data import RESIZE_FILTERS, Resize
from spikediff.data.resize import resize_picture, resize_pixels

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 8, 8), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 5, 13])
def test_bulk_equals_one_by_one(pixels, channels, size):
    resize = Resize(size=size, channels=channels)
    one_by_one = torch.stack([resize_picture(Image.fromarray(image), resize) for image in pixels])
    together = resize_pixels(pixels, resize)
    assert together.dtype == torch.uint8
    assert together.is_contiguous()
    assert torch.equal(together, one_by_one)


@pytest.mark.parametrize("name", RESIZE_FILTERS)
@pytest.mark.parametrize("size", [3, 7, 9, 32])
def test_grey_pictures_in_bulk_equal_one_by_one_with_every_filter(name, size):
    resize = Resize(size=size, channels=1, resize_filter=name)
    one_by_one = torch.stack([resize_picture(Image.fromarray(image), resize) for image in GREY])
    assert torch.equal(resize_pixels(GREY, resize), one_by_one)
    assert resize_pixels(GREY[:0], resize).shape == (0, 1, size, size)


@pytest.mark.parametrize("name", RESIZE_FILTERS)
def test_resizing_is_pillows_and_keeps_a_flat_picture_flat(name):
    resize = Resize(size=5, channels=3, resize_filter=name)
    resized = resize_picture(Image.fromarray(COLOUR[0]), resize).permute(1, 2, 0)
    expected = Image.fromarray(COLOUR[0]).resize((5, 5), RESIZE_FILTERS[name])
    assert np.array_equal(resized.numpy(), np.asarray(expected))
    assert resize_picture(Image.new("L", (8, 8), 77), resize).unique().tolist() == [77]


def test_shrinking_antialiases():
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    resized = resize_picture(Image.fromarray(stripes), Resize(size=8, channels=1))
    assert abs(resized.float() - 127.5).max() < 20  # without antialiasing: 0 or 255


def test_grey_repeats_and_colour_becomes_luma():
    grey = resize_pixels(GREY, Resize(size=8, channels=3))
    assert torch.equal(grey, torch.from_numpy(GREY)[:, None].expand(-1, 3, -1, -1))
    red = resize_picture(Image.new("RGB", (4, 4), (255, 0, 0)), Resize(size=4, channels=1))
    assert red.unique().tolist() == [76]  # 0.299 * 255


def test_the_largest_centred_square_is_kept():
    pixels = np.zeros((4, 10), np.uint8)
    pixels[:, 3:7] = 200
    resized = resize_picture(Image.fromarray(pixels), Resize(size=4, channels=1))
    assert resized.unique().tolist() == [200]


def test_celebas_crop_is_rows_35_to_182_and_columns_15_to_162():
    rows, columns = np.mgrid[:218, :178].astype(np.uint8)
    resize = Resize(size=148, channels=1, crop=148)
    assert resize_picture(Image.fromarray(rows), resize)[0, :, 0].tolist() == [*range(35, 183)]
    assert resize_picture(Image.fromarray(columns), resize)[0, 0].tolist() == [*range(15, 163)]


def test_a_picture_smaller_than_the_crop_is_refused(refused):
    resize = Resize(size=4, channels=1, crop=20)
    message = refused(resize_picture, Image.new("L", (9, 30)), resize, "some.png")
    assert "some.png" in message
    assert "9x30" in message


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"size": 0, "channels": 1}, "image_size = 0"),
        ({"size": 8, "channels": 2}, "channels is 2"),
        ({"size": 8, "channels": 1, "resize_filter": "cubic"}, "bicubic"),
    ],
)
def test_options_out_of_range_are_refused(refused, options, word):
    assert word in refused(Resize, **options)
