"""Scheduled sampling: when, how often, and what the prior guesses."""

from types import SimpleNamespace

import pytest
import torch

from spikediff.errors import UserError
from spikediff.systems.fsvae.latent import (
    FIRST_STEP,
    Coins,
    draw_coins,
    scheduled_rule,
)
from spikediff.systems.fsvae.loss import FSVAEObjective

T, B, C = 16, 4, 3


def forbidden():
    raise AssertionError("the prior was asked")


def ones():
    return torch.ones(B, C, 5)


def test_never_before_the_sixth_step():
    z = (torch.rand(T, B, C) < 0.5).float()
    rule = scheduled_rule(z, 1.0, draw_coins((T, B, C), torch.Generator().manual_seed(0)))
    assert FIRST_STEP == 5
    for n in range(5):
        assert torch.equal(rule(n, forbidden), z[n])
    for n in range(5, T):
        assert torch.equal(rule(n, ones), torch.ones(B, C))


def test_never_where_the_probability_is_0():
    z = torch.zeros(T, B, C)
    rule = scheduled_rule(z, 0.0, draw_coins((T, B, C), torch.Generator().manual_seed(0)))
    for n in range(T):
        assert torch.equal(rule(n, forbidden), z[n])


def test_each_image_has_its_coin():
    uniform = torch.tensor([0.1, 0.9, 0.29, 0.3]).expand(T, B)
    rule = scheduled_rule(torch.zeros(T, B, C), 0.3, Coins(uniform, torch.zeros(T, B, C)))
    assert rule(7, ones)[:, 0].tolist() == [1.0, 0.0, 1.0, 0.0]


def test_the_guess_is_the_majority_and_noise_decides_a_draw():
    candidates = torch.tensor([[1.0, 1.0, 1.0, 0.0], [1.0, 0, 0, 0], [1.0, 1, 0, 0]])
    for noise, tie in ((1.0, 1.0), (-1.0, 0.0)):
        coins = Coins(torch.zeros(T, 1), torch.full((T, 1, 3), noise))
        guess = scheduled_rule(torch.zeros(T, 1, 3), 1.0, coins)(9, lambda: candidates[None])
        assert guess.tolist() == [[1.0, 0.0, tie]]


RUN = SimpleNamespace(to_model_range=None)


def test_the_schedule_is_linear():
    def probabilities(progress, **options):
        drawn = FSVAEObjective(RUN, **options).draw((3, 1, 8, 8), progress, torch.Generator())
        return drawn[1].tolist()

    assert probabilities(0.0) == pytest.approx([0.1] * 3)
    assert probabilities(1.0) == pytest.approx([0.3] * 3)
    assert probabilities(75 / 150) == pytest.approx([0.2] * 3)
    assert probabilities(0.5, scheduled_sampling=(0.0, 1.0)) == [0.5] * 3


@pytest.mark.parametrize("numbers", [(-1.0, 0.3), (0.1, 2.0)])
def test_numbers_out_of_range(numbers):
    with pytest.raises(UserError, match=r"must lie in \[0, 1\]"):
        FSVAEObjective(RUN, scheduled_sampling=numbers)
