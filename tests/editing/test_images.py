"""Pictures and masks as callers hand them in; the range and the threshold."""

import numpy as np
import pytest
import torch
from PIL import Image

from spikediff.editing.images import composite, read_images, read_mask
from spikediff.errors import UserError

GREY, COLOUR = (1, 4, 6), (3, 4, 6)
LEVELS = np.arange(24, dtype=np.uint8).reshape(4, 6) * 11


def test_one_picture_in_every_form():
    want = torch.from_numpy(LEVELS)[None, None] / 255
    forms = [
        Image.fromarray(LEVELS),
        [Image.fromarray(LEVELS)],
        LEVELS,
        LEVELS[:, :, None],
        LEVELS[None, :, :, None],
        torch.from_numpy(LEVELS)[None],
        torch.from_numpy(LEVELS)[None, None],
        want,
        want[0],
        want.movedim(1, -1).numpy(),
    ]
    for form in forms:
        assert torch.equal(read_images(form, GREY), want)
    colour = np.stack([LEVELS, 255 - LEVELS, LEVELS // 2], -1)
    want = torch.from_numpy(colour).movedim(-1, 0)[None] / 255
    for form in (Image.fromarray(colour), colour, want, [want[0]]):
        assert torch.equal(read_images(form, COLOUR), want)
    assert len(read_images([LEVELS, torch.zeros(2, 1, 4, 6)], GREY)) == 3


@pytest.mark.parametrize(
    ("image", "word"),
    [
        (Image.new("RGB", (6, 4)), "mode RGB"),
        (Image.new("L", (4, 6)), "image: 4x6 with 1 channel; the model makes 6x4"),
        (np.zeros((4, 6, 3), np.uint8), "3 channels"),
        (np.zeros((4, 6, 1), np.int64), "int64"),
        (torch.full((1, 4, 6), 1.5), "from 1.5 to 1.5"),
        (torch.full((1, 4, 6), float("nan")), "nan"),
        (torch.zeros(4, 6), "2 axes"),
        ([], "empty"),
        ("photo.png", "a str"),
    ],
)
def test_pictures_that_do_not_fit(image, word):
    with pytest.raises(UserError, match=word):
        read_images(image, GREY)


def test_masks_are_cut_at_one_half():
    levels = Image.fromarray(np.array([[0, 127], [128, 255]], np.uint8))
    want = torch.tensor([[[[False, False], [True, True]]]])
    forms = [
        levels,
        levels.convert("RGB"),
        np.array([[0, 0.49], [0.5, 1]]),
        torch.tensor([[0, 0.49], [0.5, 1]]),
        torch.tensor([[0, 0], [1, 1]]),
        np.array([[0, 0], [255, 255]], np.uint8),
        want[0, 0],
        want[0],
        want,
        want.movedim(1, -1).numpy(),
    ]
    for form in forms:
        assert torch.equal(read_mask(form, (3, 2, 2)), want)
    assert len(read_mask([levels, want.expand(2, -1, -1, -1)], (1, 2, 2))) == 3


@pytest.mark.parametrize(
    ("mask", "word"),
    [
        (torch.tensor([[0, 2]]), "holds 2"),
        (np.array([[0, 100, 255]], np.uint8), "holds 100"),
        (torch.tensor([[0.0, 1.5]]), "from 0 to 1.5"),
        (torch.tensor([[0.0, float("nan")]]), "nan"),
        (torch.zeros(3, 2, 2), "one channel"),
        (torch.zeros(2), "2 to 4 axes"),
        ([], "empty"),
    ],
)
def test_masks_that_are_none(mask, word):
    shape = (1, *mask.shape[-2:]) if hasattr(mask, "shape") and mask.ndim > 1 else (1, 2, 2)
    with pytest.raises(UserError, match=word):
        read_mask(mask, shape)


def test_pasting_gives_every_level_back():
    """Also where a float in between is rounded: what is known is never computed with."""
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    mask = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    (picture,) = composite("pil", torch.zeros(1, 1, 16, 16), levels / 255, mask)
    assert np.array_equal(np.array(picture), levels[0, 0].numpy())
    fine = torch.rand(1, 1, 16, 16, dtype=torch.float64)
    assert torch.equal(composite("pt", torch.zeros(1, 1, 16, 16), fine, mask), fine)


def test_signals_are_no_images():
    with pytest.raises(UserError, match="only images can be edited"):
        read_images(torch.zeros(1, 8, 8), (1, 64))
