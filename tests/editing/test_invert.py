"""DDIM inversion: its order of convergence on a mixture of Gaussians, and the way back."""

import math

import pytest
import torch
from PIL import Image

from mixture import MIXTURE
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.loop import denoise
from spikediff.diffusion.scheduler_config import PREDICTION_TYPES
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.editing.invert import ddim_inversion
from spikediff.editing.pipelines import SpikingInversionPipeline
from spikediff.errors import UserError

X_0 = torch.linspace(-0.9, 0.9, 41, dtype=torch.float64)


def diffusion(prediction_type):
    """DDIM, and the denoiser that answers exactly, in one of the three parametrisations."""
    scheduler = make_scheduler(
        "synaptic-ddim", {"prediction_type": prediction_type, "beta_schedule": "linear"}
    )

    def denoiser(x_t, timestep):
        abar = float(scheduler.alphas_cumprod[int(timestep)])
        a, sigma = abar**0.5, (1 - abar) ** 0.5
        eps = MIXTURE.noise_estimate(x_t, abar)
        x_0 = (x_t - sigma * eps) / a
        answers = {"epsilon": eps, "sample": x_0, "v_prediction": a * eps - sigma * x_0}
        return answers[prediction_type]

    return scheduler, denoiser


def inverted(prediction_type, steps, iterations=1):
    """The noise of X_0, and what comes back of it."""
    scheduler, denoiser = diffusion(prediction_type)
    scheduler.set_timesteps(steps)
    noise = ddim_inversion(denoiser, scheduler, X_0, scheduler.timesteps.flip(0), iterations)
    return noise, denoise(denoiser, scheduler, noise, scheduler.timesteps, {})


def rms(x):
    return float(x.square().mean().sqrt())


def test_order_of_convergence():
    """Of first order, to the exact flow and of the round trip."""
    scheduler, _ = diffusion("epsilon")
    exact = MIXTURE.flow(X_0, 1.0, float(scheduler.alphas_cumprod[999]))
    flow, back = [], []
    for steps in (100, 200):
        noise, again = inverted("epsilon", steps)
        flow.append(rms(noise - exact))
        back.append(rms(again - X_0))
    for coarse, fine in (flow, back):
        assert math.log2(coarse / fine) == pytest.approx(1, abs=0.25)


def test_more_iterations_come_nearer_to_the_exact_inverse():
    """The round trip closes, down to rounding, without shorter steps."""
    errors = [rms(inverted("epsilon", 100, n)[1] - X_0) for n in (1, 2, 12)]
    assert errors[0] > 1.5 * errors[1] > 1e3 * errors[2]


def test_the_three_parametrisations_have_one_inverse():
    noises = [inverted(kind, 20)[0] for kind in PREDICTION_TYPES]
    for noise in noises[1:]:
        torch.testing.assert_close(noise, noises[0], atol=1e-10, rtol=0)


@pytest.fixture
def pipe(parts, quiet):
    return quiet(SpikingInversionPipeline, parts)


def test_the_way_there_and_back(pipe, pixels):
    latents = pipe.invert(pixels, num_inference_steps=4, num_iterations=2).latents
    assert latents.shape == pixels.shape
    back = pipe(latents, num_inference_steps=4, output_type="pt").images
    other = pipe(latents.flip(0), num_inference_steps=4, output_type="pt").images
    assert rms(back - pixels / 255) < 0.5 * rms(other - pixels / 255)


def test_an_image_is_inverted_by_itself(pipe, pixels):
    together = pipe.invert(pixels, num_inference_steps=2).latents
    alone = pipe.invert(pixels[1], num_inference_steps=2, return_dict=False)[0]
    assert torch.equal(alone[0], together[1])


def test_any_scheduler_lends_its_noise_schedule(unet, quiet, pixels):
    """And the noise is what the pipeline of that network starts from."""
    parts = {"unet": unet, "scheduler": make_scheduler("unipc", {"beta_schedule": "linear"})}
    pipe = quiet(SpikingInversionPipeline, parts)
    assert pipe.scheduler.config.beta_schedule == "linear"
    latents = pipe.invert(pixels, num_inference_steps=2).latents
    generates = quiet(SpikingDiffusionPipeline, pipe.components)
    options = {"num_inference_steps": 2, "output_type": "pt"}
    assert torch.equal(
        generates(latents=latents, **options).images, pipe(latents, **options).images
    )


def test_callbacks(pipe, pixels):
    up, down = [], []
    told = {"callback_on_step_end": lambda _p, i, t, x: up.append((i, int(t), next(iter(x))))}
    latents = pipe.invert(pixels, num_inference_steps=4, **told).latents
    pipe(latents, 4, callback_on_step_end=lambda _p, _i, t, _x: down.append(int(t)))
    stopped = []

    def stop(pipe, *_):
        stopped.append(pipe.num_timesteps)
        pipe._interrupt = True

    pipe.invert(pixels, num_inference_steps=4, callback_on_step_end=stop)
    pipe(latents, 3, callback_on_step_end=stop)
    assert stopped == [4, 3]
    assert up == [(i, t, "sample") for i, t in enumerate((249, 499, 749, 999))]
    assert down == [t for _, t, _ in reversed(up)]


def test_bad_calls_are_told(pipe, parts, pixels):
    with pytest.raises(UserError, match="num_iterations"):
        pipe.invert(pixels, num_iterations=0)
    with pytest.raises(UserError, match="num_iterations = 1000000000 must lie between 1 and 1000"):
        pipe.invert(pixels, num_iterations=10**9)
    with pytest.raises(UserError, match=r"num_iterations = 1\.5 must be a whole number"):
        pipe.invert(pixels, num_iterations=1.5)
    with pytest.raises(UserError, match=r"num_inference_steps = 2\.5 must be a whole number"):
        pipe.invert(pixels, num_inference_steps=2.5)
    with pytest.raises(UserError, match="between 1 and 1000"):
        pipe.invert(pixels, num_inference_steps=1001)
    with pytest.raises(UserError, match="takes noise"):
        pipe(torch.zeros(1, 3, 8, 8))
    with pytest.raises(UserError, match="not a tensor; give the noise that `invert` finds"):
        pipe(Image.new("L", (8, 8)))
    with pytest.raises(UserError, match="8x8"):
        pipe.invert(torch.zeros(1, 4, 4))
    no_image_left = make_scheduler("ddim").from_config({"rescale_betas_zero_snr": True})
    with pytest.raises(UserError, match="rescale_betas_zero_snr"):
        SpikingInversionPipeline(parts["unet"], no_image_left)
