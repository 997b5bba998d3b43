"""Analytic-DPM against data whose score is known, against diffusers, and against the authors."""

import json
import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from goldens import Golden
from mixture import GAUSSIAN, MIXTURE
from spikediff.diffusion.analytic_dpm import (
    AnalyticDPMScheduler,
    fresh_noise_variance,
    image_variance,
    optimal_variance,
)
from spikediff.diffusion.scheduler_config import PREDICTION_TYPES, image_and_noise
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.errors import UserError

# diffusers keeps alphas_cumprod in float32, and so does ours, for a trained network's sake. Both
# sides of a law start from that same table, read as float64; what remains is rounding.
ALPHA_BAR = DDPMScheduler().alphas_cumprod.double()
# At t = 999, Cov[x_0 | x_t] is 25,000 times 1 - h, which quadrature knows to 1e-13.
EXACT = {"atol": 2e-8, "rtol": 0}
NOTHING_OPEN = [1.0] * 1000  # h = 1: the estimate of x_0 is certain, so its variance is 0
ETAS = [0.0, 0.5, 1.0]


def unclipped(data, steps, spacing="linspace", **settings):
    """The scheduler with the exact second moment at the timesteps that it visits, no clips."""
    blank = AnalyticDPMScheduler(second_moment=NOTHING_OPEN, timestep_spacing=spacing)
    blank.set_timesteps(steps)
    grid = sorted(blank.timesteps.tolist())
    scheduler = AnalyticDPMScheduler(
        second_moment=[data.second_moment(ALPHA_BAR[t]) for t in grid],
        second_moment_timesteps=grid,
        timestep_spacing=spacing,
        clip_sample=False,
        clip_covariance=None,
        clip_last_noise=None,
        **settings,
    )
    scheduler.set_timesteps(steps)
    return scheduler


def alpha_bar_after(scheduler, t):
    return max((s for s in scheduler.timesteps.tolist() if s < t), default=None)


# --- laws of the reverse process, with the exact score ---


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("steps", [2, 5, 20])
def test_one_step_lands_on_the_marginal_variance(steps, eta):
    """From the exact x_t, for any data: Var of the mean plus sigma*^2 is the variance of x_s."""
    scheduler = unclipped(MIXTURE, steps, eta=eta)
    for t in scheduler.timesteps.tolist()[:-1]:
        x, weights = MIXTURE.nodes(ALPHA_BAR[t])
        estimate = MIXTURE.noise_estimate(x, ALPHA_BAR[t])
        mean = scheduler.step(estimate, t, x, variance_noise=torch.zeros_like(x)).prev_sample
        spread = (weights * mean**2).sum() - (weights * mean).sum() ** 2
        target = MIXTURE.variance(ALPHA_BAR[alpha_bar_after(scheduler, t)])
        torch.testing.assert_close(spread + scheduler.variance(t), target, **EXACT)


def propagated_variance(scheduler, last):
    """The exact variance of x at timestep `last` when sampling Gaussian data.

    Every step is linear there, x_s = c x_t + sigma z, so two probes tell c and sigma.
    """
    variance = GAUSSIAN.variance(ALPHA_BAR[999])
    for t in scheduler.timesteps.tolist():
        if t == last:
            return variance
        x = torch.tensor([[0.0, 1.0]], dtype=torch.float64)  # [B=1, C=2]
        z = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(t))
        estimate = GAUSSIAN.noise_estimate(x, ALPHA_BAR[t])
        same = torch.Generator().manual_seed(t)
        probe = scheduler.step(estimate, t, x, generator=same).prev_sample
        sigma = probe[0, 0] / z[0, 0]
        variance = (probe[0, 1] - sigma * z[0, 1]) ** 2 * variance + sigma**2
    raise AssertionError(f"never came to timestep {last}")


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("steps", [2, 3, 10, 50])
def test_exact_for_a_gaussian_at_any_number_of_steps(steps, eta):
    scheduler = unclipped(GAUSSIAN, steps, eta=eta)
    reached = propagated_variance(scheduler, last=0)
    torch.testing.assert_close(reached, GAUSSIAN.variance(ALPHA_BAR[0]), **EXACT)


@pytest.mark.parametrize(
    ("variance_type", "wrong"), [("fixed_small", (0.2, 0.3)), ("fixed_large", (2.5, 2.8))]
)
def test_ddpms_fixed_variances_are_wrong_for_few_steps(variance_type, wrong):
    scheduler = DDPMScheduler(
        variance_type=variance_type, clip_sample=False, timestep_spacing="linspace"
    )
    scheduler.set_timesteps(10)
    reached = propagated_variance(scheduler, last=0)
    low, high = wrong
    assert low < reached / GAUSSIAN.variance(ALPHA_BAR[0]) < high


def sampled_variance(scheduler):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 100, 100, dtype=torch.float64, generator=generator)
    for t in scheduler.timesteps.tolist():
        estimate = MIXTURE.noise_estimate(x, ALPHA_BAR[t])
        x = scheduler.step(estimate, t, x, generator=generator).prev_sample
    return x.var() / MIXTURE.variance(1.0)


def test_few_steps_on_a_mixture_keep_its_variance_where_ddpm_does_not():
    """Not exactly: after one step x is no longer quite the marginal. Measured 0.97 at 10 steps, and
    0.54 and 1.26 with DDPM's two variances.
    """
    ours = sampled_variance(unclipped(MIXTURE, 10))
    assert ours == pytest.approx(1.0, abs=0.1)
    for variance_type in ("fixed_small", "fixed_large"):
        ddpm = DDPMScheduler(
            variance_type=variance_type, clip_sample=False, timestep_spacing="linspace"
        )
        ddpm.set_timesteps(10)
        assert abs(sampled_variance(ddpm) - 1) > 2 * abs(ours - 1)


# --- bounds and limits of the variance ---

abars = st.floats(1e-4, 0.9999)


@given(abars, abars, st.floats(-0.5, 1.5), st.floats(0, 1), st.none() | st.floats(0.1, 4))
def test_variance_lies_within_the_bounds_of_theorem_2(one, other, h, eta, clip):
    """Written as in the paper: beta-bar_n / alpha_n for the jump's alpha."""
    abar_t, abar_s = min(one, other), max(one, other)
    noise = fresh_noise_variance(abar_t, abar_s, eta)
    got = optimal_variance(abar_t, abar_s, h, eta, clip)
    rest = math.sqrt(1 - abar_s - noise)
    unknown = noise + (math.sqrt((1 - abar_t) * abar_s / abar_t) - rest) ** 2
    bounded = math.sqrt(abar_s) - rest * math.sqrt(abar_t / (1 - abar_t))
    slack = 1e-9 * (1 + unknown)
    assert noise - slack <= got
    assert got <= unknown * max(1, 1 - h) + slack
    if clip is not None:
        assert got <= noise + bounded**2 * clip + slack


@given(abars, abars, st.floats(0, 1), st.floats(0, 1))
def test_clipped_to_pixels_the_variance_stays_below_one(one, other, h, eta):
    """So the SDM code's further clamp of the variance to [0, 1] never acts."""
    assert optimal_variance(min(one, other), max(one, other), h, eta, 1.0) <= 1 + 1e-12


def test_image_variance_of_a_gaussian():
    """1 / Cov = 1 / spread^2 + abar / (1 - abar): information adds up."""
    for t in (0, 100, 500):
        abar = float(ALPHA_BAR[t])
        expected = 1 / (1 / 0.25**2 + abar / (1 - abar))
        got = image_variance(abar, GAUSSIAN.second_moment(ALPHA_BAR[t]))
        assert got == pytest.approx(expected, rel=1e-9)


def test_eta_0_adds_only_what_the_denoiser_leaves_open():
    scheduler = AnalyticDPMScheduler(second_moment=NOTHING_OPEN, eta=0.0)
    scheduler.set_timesteps(10)
    assert all(scheduler.variance(t) == 0.0 for t in scheduler.timesteps.tolist())


def test_noise_of_the_last_noisy_step_is_limited_to_grey_levels():
    open_wide = [0.0] * 1000
    clipped = AnalyticDPMScheduler(second_moment=open_wide, clip_last_noise=1.0)
    free = AnalyticDPMScheduler(second_moment=open_wide, clip_last_noise=None)
    for scheduler in (clipped, free):
        scheduler.set_timesteps(10)
    *earlier, landing_on_0, onto_x_0 = clipped.timesteps.tolist()
    z = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    sigma = clipped.variance(landing_on_0) ** 0.5
    assert (sigma * z).abs().mean().item() == pytest.approx(2 / 255, rel=0.01)
    assert free.variance(landing_on_0) > 100 * sigma**2
    assert clipped.variance(onto_x_0) == 0.0
    assert [clipped.variance(t) for t in earlier] == [free.variance(t) for t in earlier]


# --- agreement with diffusers, step by step ---


def walk(scheduler, seed=0, **options):
    """Sample with an arbitrary, hence clipped, 'denoiser'."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64, generator=generator)
    seen = [x]
    for t in scheduler.timesteps:
        output = torch.tanh(3 * x) * (1 - ALPHA_BAR[t]).sqrt()
        x = scheduler.step(output, t, x, generator=generator, **options).prev_sample
        seen.append(x)
    return torch.stack(seen)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("rederived", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_with_nothing_left_open_it_is_ddim(eta, rederived, prediction_type):
    common = {"prediction_type": prediction_type, "timestep_spacing": "trailing"}
    ours = AnalyticDPMScheduler(
        second_moment=NOTHING_OPEN, eta=eta, use_clipped_model_output=rederived, **common
    )
    ddim = DDIMScheduler(**common)
    for scheduler in (ours, ddim):
        scheduler.set_timesteps(20)
    expected = walk(ddim, eta=eta, use_clipped_model_output=rederived)
    # diffusers' coefficients are float32, 1e-7 each, and the walk adds them up: measured 3e-6.
    torch.testing.assert_close(walk(ours), expected, atol=1e-5, rtol=0)


def test_with_nothing_left_open_and_eta_1_it_is_ddpm_with_the_small_variance():
    all_of_them = {"num_train_timesteps": 300, "timestep_spacing": "linspace"}
    ours = AnalyticDPMScheduler(second_moment=[1.0] * 300, clip_last_noise=None, **all_of_them)
    ddpm = DDPMScheduler(variance_type="fixed_small", **all_of_them)
    for scheduler in (ours, ddpm):
        scheduler.set_timesteps(300)
    # diffusers' 1 - alpha_bar / alpha_bar_prev is a float32 difference of near equals, worst near
    # t = 0: measured 9e-5.
    torch.testing.assert_close(walk(ours), walk(ddpm), atol=2e-4, rtol=0)


def test_mean_of_the_authors_strided_sampler():
    """Golden A3, teacher-forced: their mean; their variance is known to be one of 1000 steps."""
    a3 = Golden("A3_samplers")
    scheduler = AnalyticDPMScheduler(second_moment=NOTHING_OPEN, timestep_spacing="trailing")
    scheduler.set_timesteps(10)
    theirs = a3["ddpm2_10/t_list"].flatten().tolist()
    assert scheduler.timesteps.tolist() == theirs[:10]
    x, eps, noise = (a3[f"ddpm2_10/{k}"] for k in ("x", "eps", "noise"))
    for i in range(9):
        t = int(theirs[i])
        zero = torch.zeros_like(x[i])
        mean = scheduler.step(eps[i], t, x[i], variance_noise=zero).prev_sample
        their_sigma = scheduler.betas[t].sqrt()
        torch.testing.assert_close(mean + their_sigma * noise[i], x[i + 1], atol=5e-6, rtol=0)


def test_prediction_types_are_three_names_of_one_thing():
    draw = torch.Generator().manual_seed(3)
    x_t, eps = torch.randn(2, 1, 1, 50, dtype=torch.float64, generator=draw)
    abar = 0.3
    x_0 = (x_t - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
    outputs = {
        "epsilon": eps,
        "sample": x_0,
        "v_prediction": math.sqrt(abar) * eps - math.sqrt(1 - abar) * x_0,
    }
    for kind, output in outputs.items():
        got = image_and_noise(output, x_t, abar, kind)
        torch.testing.assert_close(torch.stack(got), torch.stack([x_0, eps]))
    with pytest.raises(UserError, match="did you mean 'epsilon'"):
        image_and_noise(eps, x_t, abar, "epsilom")


# --- as a diffusers scheduler ---


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50, 999, 1000])
def test_timesteps_begin_in_noise_and_end_at_the_cleanest(steps):
    scheduler = AnalyticDPMScheduler(second_moment=NOTHING_OPEN)
    scheduler.set_timesteps(steps)
    visited = scheduler.timesteps.tolist()
    assert len(visited) == steps == len(set(visited))
    assert visited == sorted(visited, reverse=True)
    assert visited[0] == 999
    assert steps == 1 or visited[-1] == 0


def test_noising_and_one_step_with_the_true_noise_is_a_round_trip():
    scheduler = AnalyticDPMScheduler(second_moment=NOTHING_OPEN)
    draw = torch.Generator().manual_seed(1)
    x_0 = torch.rand(1, 1, 8, 8, dtype=torch.float64, generator=draw) * 2 - 1
    eps = torch.randn(x_0.shape, dtype=torch.float64, generator=draw)
    for t in (0, 10, 500, 999):
        x_t = scheduler.add_noise(x_0, eps, torch.tensor([t]))
        torch.testing.assert_close(
            scheduler.step(eps, t, x_t).pred_original_sample, x_0, atol=1e-9, rtol=0
        )
    velocity = scheduler.get_velocity(x_0, eps, torch.tensor([500]))
    _, noise = image_and_noise(
        velocity,
        scheduler.add_noise(x_0, eps, torch.tensor([500])),
        float(ALPHA_BAR[500]),
        "v_prediction",
    )
    torch.testing.assert_close(noise, eps)
    assert torch.equal(scheduler.scale_model_input(x_0, 500), x_0)


def test_an_image_depends_on_its_own_generator():
    scheduler = AnalyticDPMScheduler(second_moment=[0.5] * 1000)
    scheduler.set_timesteps(5)
    x = torch.zeros(3, 1, 4, 4)

    def seeds(*numbers):
        return [torch.Generator().manual_seed(n) for n in numbers]

    together = scheduler.step(x, 999, x, generator=seeds(1, 2, 3)).prev_sample
    alone = scheduler.step(x[:1], 999, x[:1], generator=seeds(3)).prev_sample
    assert torch.equal(together[2:], alone)
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_samples_type_is_kept(dtype):
    scheduler = AnalyticDPMScheduler(second_moment=[0.5] * 1000)
    scheduler.set_timesteps(5)
    x = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    noise = torch.ones_like(x)
    fine = scheduler.step(0.5 * x.double(), 999, x.double(), variance_noise=noise)
    got = scheduler.step((0.5 * x).to(dtype), 999, x.to(dtype), variance_noise=noise)
    pair = scheduler.step((0.5 * x).to(dtype), 999, x.to(dtype), None, noise, return_dict=False)
    assert got.prev_sample.dtype == got.pred_original_sample.dtype == dtype
    assert torch.equal(pair[0], got.prev_sample)
    torch.testing.assert_close(
        got.prev_sample.double(), fine.prev_sample, atol=8 * torch.finfo(dtype).eps, rtol=0
    )


def test_saved_and_loaded(tmp_path):
    h = torch.rand(4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).tolist()
    saved = AnalyticDPMScheduler(
        second_moment=h, second_moment_timesteps=[0, 10, 100, 999], eta=0.3, clip_last_noise=None
    )
    saved.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "scheduler_config.json").read_text())["second_moment"] == h
    loaded = AnalyticDPMScheduler.from_pretrained(tmp_path)
    for scheduler in (saved, loaded):
        scheduler.set_timesteps(7)
    assert {**loaded.config, **saved.config} == {**saved.config}
    assert [loaded.variance(t) for t in loaded.timesteps.tolist()] == [
        saved.variance(t) for t in saved.timesteps.tolist()
    ]


def test_taking_another_scheduler_and_coming_back_is_quiet(caplog):
    betas = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
    trained = make_scheduler("ddpm", betas)
    ours = make_scheduler("analytic-dpm", {**trained.config, "second_moment": [0.5] * 1000})
    for name in ("ddim", "dpmsolver++", "analytic-dpm"):
        other = make_scheduler(name, ours.config)
        assert other.config.prediction_type == "v_prediction"
        assert torch.equal(other.alphas_cumprod, trained.alphas_cumprod)
    assert other.config.second_moment == [0.5] * 1000
    assert "not expected" not in caplog.text


def test_second_moment_is_linear_between_its_timesteps():
    timesteps = np.array([100, 300])
    grid = AnalyticDPMScheduler(second_moment=[0.2, 0.6], second_moment_timesteps=timesteps)
    table = [0.2] * 100 + [0.2 + 0.4 * i / 200 for i in range(200)] + [0.6] * 700
    full = AnalyticDPMScheduler(second_moment=table)
    for t in (0, 100, 101, 250, 300, 999):
        assert grid.variance(t) == pytest.approx(full.variance(t), rel=1e-12)


WRONG = {
    "calibrate": {},
    r"\[0, 1\]": {"second_moment": NOTHING_OPEN, "eta": 1.5},
    "3 numbers for 1000": {"second_moment": [1.0] * 3},
    "increase": {"second_moment": [1.0, 1.0], "second_moment_timesteps": [5, 5]},
    "0 to 999": {"second_moment": [1.0], "second_moment_timesteps": [1000]},
    "tolist": {"second_moment": torch.ones(1000)},
    "finite": {"second_moment": [float("nan")] * 1000},
    "must be a finite number": {"second_moment": ["0.5"] * 1000},
    "clip_last_noise = -1": {"second_moment": NOTHING_OPEN, "clip_last_noise": -1},
    "zero_snr": {"second_moment": NOTHING_OPEN, "rescale_betas_zero_snr": True},
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_settings_are_refused_in_one_line(words):
    with pytest.raises(UserError, match=words) as refusal:
        AnalyticDPMScheduler(**WRONG[words]).set_timesteps(10)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("steps", [0, 1001])
def test_impossible_numbers_of_steps(steps):
    with pytest.raises(UserError, match="between 1 and 1000"):
        AnalyticDPMScheduler(second_moment=NOTHING_OPEN).set_timesteps(steps)
