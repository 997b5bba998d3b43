"""One way into every feature network, the same as the data sets' own."""

import pytest
import torch

from spikediff.data import load_images
from spikediff.errors import UserError
from spikediff.evaluation.features.network import preparation_notes, prepare

GREY = torch.randint(0, 256, (3, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()


@pytest.mark.parametrize("resize_filter", ["bilinear", "bicubic"])
@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_what_load_images_does(resize_filter, channels):
    options = {"image_size": 20, "channels": channels, "resize_filter": resize_filter}
    expected = load_images("digits", "test", **options).stack()
    assert torch.equal(prepare(load_images("digits", "test").stack(), **options), expected)


def test_what_fits_is_left_alone():
    assert torch.equal(prepare(GREY, 8, 1, None), GREY)
    assert preparation_notes(GREY, 8, 1, None) == []


def test_a_resize_is_noted():
    assert preparation_notes(GREY, 16, 1, "bicubic") == [
        "resized from 8 to 16 pixels (PIL, bicubic)"
    ]


def test_grey_stored_as_rgb_is_grey():
    rgb = GREY.repeat(1, 3, 1, 1)
    assert torch.equal(prepare(rgb, 8, 1, "bilinear"), GREY)
    assert "one channel is taken" in preparation_notes(rgb, 8, 1, "bilinear")[0]


def test_grey_for_a_colour_network_is_told():
    assert torch.equal(prepare(GREY, 8, 3, None), GREY.expand(-1, 3, -1, -1))
    assert preparation_notes(GREY, 8, 3, None) == ["the grey channel is repeated three times"]


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="no resize_filter"):
        prepare(GREY, 16, 1, None)
    with pytest.raises(UserError, match="squares"):
        prepare(GREY[..., :6], 8, 1, "bilinear")
    colours = GREY.repeat(1, 3, 1, 1)
    colours[2, 1, 3, 3] ^= 1
    with pytest.raises(UserError, match="grey ones"):
        prepare(colours, 8, 1, "bilinear")
