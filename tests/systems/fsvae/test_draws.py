"""Draws of a batch: from one generator, or one per image."""

import pytest
import torch

from spikediff.diffusion.seeds import draw_each
from spikediff.errors import UserError
from spikediff.systems.fsvae.latent import draw_choices, draw_coins


def seeded(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_an_image_has_the_draws_of_its_own_generator():
    together = draw_choices((4, 3, 5), 20, seeded(7, 8, 9))  # [T, B, C]
    alone = draw_choices((4, 1, 5), 20, seeded(9))
    assert together.shape == (4, 3, 5)
    assert torch.equal(together[:, 2:], alone)
    coins, own = draw_coins((4, 3, 5), seeded(7, 8, 9)), draw_coins((4, 1, 5), seeded(9))
    assert torch.equal(coins.uniform[:, 2:], own.uniform)
    assert torch.equal(coins.normal[:, 2:], own.normal)


def test_one_generator_for_all():
    draw = lambda n, g: torch.rand(n, generator=g)  # noqa: E731
    got = draw_each(draw, 3, torch.Generator().manual_seed(1))
    assert torch.equal(got, torch.rand(3, generator=torch.Generator().manual_seed(1)))


def test_choices_are_uniform():
    choices = draw_choices((16, 100, 25), 5, torch.Generator().manual_seed(0))
    counts = torch.bincount(choices.flatten(), minlength=5)
    assert len(counts) == 5
    expected = choices.numel() / 5
    assert ((counts - expected) ** 2 / expected).sum() < 18.5  # chi squared, 4 degrees, p = 0.001


def test_a_shared_coin():
    coins = draw_coins((6, 3, 2), torch.Generator().manual_seed(0), shared=True)
    assert torch.equal(coins.uniform, coins.uniform[:, :1].expand(6, 3))
    apart = draw_coins((6, 3, 2), torch.Generator().manual_seed(0))
    assert (apart.uniform[:, 0] != apart.uniform[:, 1]).all()


def test_a_generator_too_few():
    with pytest.raises(UserError, match="2 generators for a batch of 3"):
        draw_choices((4, 3, 5), 20, seeded(1, 2))
