"""How noisy a timestep is, of any scheduler; and going back up by the forward process."""

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from spikediff.diffusion.schedulers import SCHEDULERS, make_scheduler
from spikediff.diffusion.schedules import CLEAN, noise_levels, renoise
from spikediff.errors import UserError


@pytest.mark.parametrize("name", SCHEDULERS)
def test_levels_are_the_schedule_s(name):
    scheduler = make_scheduler(name, {"second_moment": [0.5] * 1000})
    scheduler.set_timesteps(10)
    for timestep in scheduler.timesteps[:9]:
        a, sigma = noise_levels(scheduler, timestep)
        abar = float(scheduler.alphas_cumprod[int(timestep)])
        assert a == pytest.approx(abar**0.5, rel=1e-3, abs=1e-3)
        assert sigma == pytest.approx((1 - abar) ** 0.5, rel=1e-3)


def test_levels_of_growing_noise():
    scheduler = EulerDiscreteScheduler()
    scheduler.set_timesteps(5)
    levels = [noise_levels(scheduler, t) for t in scheduler.timesteps]
    assert [a for a, _ in levels] == [1.0] * 5
    assert [sigma for _, sigma in levels] == pytest.approx(scheduler.sigmas[:5].tolist())


@pytest.mark.parametrize("clean", [CLEAN, (0.96, 0.28), (1.0, 0.5)])
def test_going_up_is_the_forward_process(clean):
    """x_s = a_s x_0 + sigma_s eps becomes x_t of the same x_0 with the noise of t."""
    noisy = (0.6, 0.8) if clean[0] < 1.0 or clean == CLEAN else (1.0, 2.0)
    draw = torch.Generator().manual_seed(0)
    eps, fresh = torch.randn(2, 100_000, dtype=torch.float64, generator=draw)
    x_s = clean[0] * 0.5 + clean[1] * eps
    x_t = renoise(x_s, fresh, clean, noisy)
    assert float(x_t.mean()) == pytest.approx(noisy[0] * 0.5, abs=0.02)
    assert float(x_t.std()) == pytest.approx(noisy[1], rel=0.01)


def test_going_up_goes_up():
    with pytest.raises(UserError, match="not noisier"):
        renoise(torch.zeros(1), torch.zeros(1), (0.6, 0.8), (0.8, 0.6))
