"""Laws of the pixel range and of the flip."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikediff.data import random_flip, to_model_range, to_uint8

ALL_LEVELS = torch.arange(256, dtype=torch.uint8)


def test_every_grey_level_survives_the_round_trip():
    assert torch.equal(to_uint8(to_model_range(ALL_LEVELS)), ALL_LEVELS)


def test_every_grey_level_survives_half_precision():
    assert torch.equal(to_uint8(to_model_range(ALL_LEVELS).half()), ALL_LEVELS)


def test_range_endpoints_and_type():
    seen = to_model_range(ALL_LEVELS)
    assert seen.dtype == torch.float32
    assert seen[0] == -1.0
    assert seen[-1] == 1.0
    assert torch.allclose(seen.diff(), torch.full((255,), 1 / 127.5), atol=1e-6)


def test_to_uint8_clamps():
    assert to_uint8(torch.tensor([-9.0, -1.5, 1.5, 3e38])).tolist() == [0, 0, 255, 255]


@given(st.floats(-1, 1))
def test_to_uint8_rounds_to_the_nearest_level(value):
    level = to_uint8(torch.tensor([value], dtype=torch.float64)).item()
    assert abs(level - (value + 1) * 127.5) <= 0.5 + 1e-4


def test_wrong_types_are_refused(refused):
    assert "uint8" in refused(to_model_range, torch.zeros(1))
    assert "floating point" in refused(to_uint8, torch.zeros(1, dtype=torch.uint8))


def test_flip_depends_on_the_generator_alone():
    images = torch.arange(64 * 12).reshape(64, 3, 2, 2)
    torch.manual_seed(1)
    first = random_flip(images, torch.Generator().manual_seed(5))
    torch.manual_seed(2)
    again = random_flip(images, torch.Generator().manual_seed(5))
    other = random_flip(images, torch.Generator().manual_seed(6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_flip_leaves_the_global_generator_alone():
    state = torch.random.get_rng_state()
    random_flip(torch.zeros(4, 1, 2, 2), torch.Generator().manual_seed(0))
    assert torch.equal(state, torch.random.get_rng_state())


def test_each_image_is_itself_or_its_mirror_about_half_the_time():
    images = torch.rand(2000, 1, 1, 3)
    flipped = random_flip(images, torch.Generator().manual_seed(0))
    mirrored = (flipped == images.flip(-1)).all(-1).flatten()
    kept = (flipped == images).all(-1).flatten()
    assert torch.equal(mirrored, ~kept)
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.05)
