"""Contract of every scheduler in the table: it integrates the exact score of a Gaussian."""

import pytest
import torch

from spikediff.diffusion.schedulers import SCHEDULERS, make_scheduler
from spikediff.errors import UserError

SPREAD = 0.25  # standard deviation of the data
STOCHASTIC = {"ddpm", "analytic-dpm"}
FIRST_ORDER = {"ddpm", "ddim", "synaptic-ddim", "analytic-dpm"}


def exact_estimate(scheduler, x_t, t):
    """What a perfect network answers for data ~ N(0, SPREAD^2): E[eps | x_t]."""
    abar = scheduler.alphas_cumprod[t]
    return x_t * (1 - abar).sqrt() / (abar * SPREAD**2 + 1 - abar)


def exact_second_moment():
    """h(t) of that network, which Analytic-DPM asks for; the others ignore it."""
    abar = make_scheduler("ddpm").alphas_cumprod.double()
    return ((1 - abar) / (abar * SPREAD**2 + 1 - abar)).tolist()


CALIBRATED = {
    "second_moment": exact_second_moment(),
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
}


def spread_error(name, steps):
    """Sample with the exact estimate; return the relative error of the samples' spread."""
    scheduler = make_scheduler(name, CALIBRATED)
    scheduler.set_timesteps(steps)
    assert len(scheduler.timesteps) == steps
    assert scheduler.timesteps[0] == 999, "starts at the noisiest timestep"
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 300, 300, generator=generator)
    for t in scheduler.timesteps:
        extra = {"generator": generator} if name in STOCHASTIC else {}
        x = scheduler.step(exact_estimate(scheduler, x, t), t, x, **extra).prev_sample
    return abs(x.std().item() / SPREAD - 1)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_error_shrinks_with_the_steps(name):
    """Ten times the steps leave less than a quarter of the error, and solvers hardly any."""
    coarse, fine = spread_error(name, 10), spread_error(name, 100)
    assert fine < coarse / 4
    assert fine < (0.12 if name in FIRST_ORDER else 0.02)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_keeps_the_noise_schedule_it_is_given(name):
    trained = make_scheduler(
        "ddpm", {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
    )
    scheduler = make_scheduler(name, trained.config)
    assert scheduler.config.prediction_type == "v_prediction"
    torch.testing.assert_close(scheduler.alphas_cumprod.float(), trained.alphas_cumprod)


def test_first_order_dpm_solver_is_ddim():
    from diffusers import DPMSolverMultistepScheduler

    ddim = make_scheduler("ddim")
    dpm = DPMSolverMultistepScheduler.from_config(ddim.config, solver_order=1)
    x = y = torch.randn(1, 1, 20, 20, generator=torch.Generator().manual_seed(1)) / 3
    for scheduler in (ddim, dpm):
        scheduler.set_timesteps(20)
    for t in ddim.timesteps:
        x = ddim.step(exact_estimate(ddim, x, t), t, x).prev_sample
        y = dpm.step(exact_estimate(dpm, y, t), t, y).prev_sample
    torch.testing.assert_close(y, x, atol=1e-4, rtol=0)


def test_unknown_name():
    with pytest.raises(UserError, match="did you mean 'unipc'"):
        make_scheduler("unipcc")
