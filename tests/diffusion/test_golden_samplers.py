"""The authors' samplers (golden file A3): where ours agree, and where theirs are wrong.

Every update is compared teacher-forced: their x, estimate and noise in, their next x out.
"""

import sys

import pytest
import torch

from goldens import Golden
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.systems.released import load_authors_checkpoint

# diffusers keeps alphas_cumprod in float32, the authors in float64: near t = 0, 1 - alpha_bar has
# a relative error of 6e-4 there, which the posterior's weights inherit.
ATOL = 2e-4
LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


@pytest.fixture(scope="module")
def a3():
    return Golden("A3_samplers")


def step(scheduler, monkeypatch, estimate, t, x, noise):
    module = sys.modules[type(scheduler).__module__]
    monkeypatch.setattr(module, "randn_tensor", lambda *_a, **_k: noise)
    return scheduler.step(estimate, t, x).prev_sample


@pytest.fixture(scope="module")
def model():
    return load_authors_checkpoint(Golden("A1_sddpm_unet").state(), "sddpm", 4, sample_size=16)


@pytest.mark.parametrize("run", ["ddpm_fixedlarge", "ddpm_fixedsmall", "ddim_10", "ddpm2_10"])
def test_network_agrees_along_the_trajectory(a3, model, run):
    count = a3[f"{run}/t"].shape[0]
    every = slice(None, None, max(1, count // 10))
    x, t, eps = (a3[f"{run}/{key}"][every] for key in ("x", "t", "eps"))
    times = t.long().repeat_interleave(x.shape[1])  # of batches of images
    with torch.no_grad():
        estimate = model(x.flatten(0, 1), times).sample
    torch.testing.assert_close(estimate.view_as(eps), eps, atol=2e-5, rtol=0)


@pytest.mark.parametrize("variance", ["fixed_large", "fixed_small"])
def test_ddpm(a3, variance, monkeypatch):
    run = f"ddpm_{variance.replace('_', '')}"
    scheduler = make_scheduler("ddpm", {**LINEAR, "variance_type": variance})
    scheduler.set_timesteps(1000)
    assert scheduler.timesteps.tolist() == a3[f"{run}/t_list"].flatten().tolist()
    x, eps, noise = a3[f"{run}/x"], a3[f"{run}/eps"], a3[f"{run}/noise"]
    got = [
        step(scheduler, monkeypatch, eps[i], t, x[i], noise[i])
        for i, t in enumerate(scheduler.timesteps[:-1])
    ]
    torch.testing.assert_close(torch.stack(got), x[1 : len(got) + 1], atol=ATOL, rtol=0)
    last = step(scheduler, monkeypatch, eps[-1], torch.tensor(0), x[-1], None)
    torch.testing.assert_close(last, a3[f"{run}/x0"], atol=ATOL, rtol=0)


def test_ddim_agrees_until_the_step_that_the_authors_leave_out(a3, monkeypatch):
    scheduler = make_scheduler("ddim", LINEAR)
    scheduler.set_timesteps(10)
    calls = a3["ddim_10/t"].shape[0]
    theirs = a3["ddim_10/t_list"].flatten().tolist()
    assert scheduler.timesteps.tolist() == theirs[:calls]
    x, eps = a3["ddim_10/x"], a3["ddim_10/eps"]
    for i in range(calls - 1):
        got = scheduler.step(eps[i], int(theirs[i]), x[i]).prev_sample
        torch.testing.assert_close(got, x[i + 1], atol=ATOL, rtol=0)

    # Theirs returns x_0-plus-noise at t = 0, without the last denoising step; ours denoises.
    last = scheduler.step(eps[-1], int(theirs[calls - 1]), x[-1])
    assert torch.equal(last.prev_sample, last.pred_original_sample)
    assert last.prev_sample.abs().max() <= 1.0
    left_noisy = a3["ddim_10/x0"]
    a, sigma = scheduler.alphas_cumprod[0] ** 0.5, (1 - scheduler.alphas_cumprod[0]) ** 0.5
    t = int(theirs[calls - 1])
    a_t, sigma_t = scheduler.alphas_cumprod[t] ** 0.5, (1 - scheduler.alphas_cumprod[t]) ** 0.5
    x_0 = ((x[-1] - sigma_t * eps[-1]) / a_t).clamp(-1, 1)
    torch.testing.assert_close(left_noisy, a * x_0 + sigma * eps[-1], atol=ATOL, rtol=0)
    torch.testing.assert_close(last.prev_sample, x_0, atol=ATOL, rtol=0)


def test_strided_ddpm_has_the_mean_but_not_the_authors_variance(a3, monkeypatch):
    scheduler = make_scheduler("ddpm", {**LINEAR, "variance_type": "fixed_large"})
    scheduler.set_timesteps(10)
    x, eps, noise = (a3[f"ddpm2_10/{k}"] for k in ("x", "eps", "noise"))
    theirs = a3["ddpm2_10/t_list"].flatten().tolist()
    betas = scheduler.betas
    for i in range(8):
        t = int(theirs[i])
        mean = step(scheduler, monkeypatch, eps[i], t, x[i], torch.zeros_like(noise[i]))
        one_step_sigma = betas[t] ** 0.5  # the known bug: the variance of one step of a thousand
        torch.testing.assert_close(mean + one_step_sigma * noise[i], x[i + 1], atol=ATOL, rtol=0)
        ours = step(scheduler, monkeypatch, eps[i], t, x[i], noise[i])
        abar = scheduler.alphas_cumprod
        jump_sigma = (1 - abar[t] / abar[int(theirs[i + 1])]) ** 0.5
        torch.testing.assert_close(ours, mean + jump_sigma * noise[i], atol=ATOL, rtol=0)
        assert jump_sigma > 2 * one_step_sigma
