"""Divergences against closed forms."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from spikediff.systems.fsvae.loss import (
    SPIKE_DIVERGENCES,
    bernoulli_kl,
    gaussian_kl,
)


def test_gaussian_against_the_closed_form():
    mean, log_variance = torch.randn(2, 5, 7, dtype=torch.float64)
    posterior = Normal(mean, (log_variance / 2).exp())
    want = kl_divergence(posterior, Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(gaussian_kl(mean, log_variance), want)
    assert gaussian_kl(torch.zeros(3, 4), torch.zeros(3, 4)).item() == 0.0


def test_bernoulli_is_nearly_the_closed_form():
    q, p = (0.2 + 0.6 * torch.rand(2, 16, 5, 7)).double()  # [T, B, C]
    want = kl_divergence(Bernoulli(q), Bernoulli(p)).sum((0, 2)).mean()
    assert bernoulli_kl(q, p).item() == pytest.approx(want.item(), rel=0.1)


def test_bernoulli_by_hand_where_the_closed_form_is_infinite():
    q, p = torch.ones(2, 3, 4), torch.zeros(2, 3, 4)
    want = 2 * 4 * math.log(1.01 / 0.01)
    assert bernoulli_kl(q, p).item() == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("name", SPIKE_DIVERGENCES)
def test_equal_trains_are_0_apart(name):
    distance, weight = SPIKE_DIVERGENCES[name]
    rates = torch.rand(8, 3, 4)
    assert distance(rates, rates).item() == 0.0
    assert distance(rates, 1 - rates).item() > 0.0
    assert weight > 0
