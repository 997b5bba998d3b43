"""The denoising loss: its targets, its weights and its draws."""

import pytest
import torch
from diffusers import DDIMScheduler
from torch import nn

from spikediff.diffusion.objective import denoising_loss, draw_noise, target_of, timestep_weights
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.diffusion.seeds import derived_generator


class Oracle(nn.Module):
    """A network that knows the answer."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, sample, timestep):
        from types import SimpleNamespace

        return SimpleNamespace(sample=self.answer)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_loss_is_zero_for_the_right_answer_and_the_scheduler_agrees(kind):
    scheduler = make_scheduler("ddim", {"prediction_type": kind, "clip_sample": False})
    x_0 = torch.rand(4, 1, 8, 8) * 2 - 1
    timestep, eps = draw_noise(tuple(x_0.shape), 1000, torch.Generator().manual_seed(0))
    target = target_of(scheduler, x_0, eps, timestep)
    loss = denoising_loss(Oracle(target), scheduler, x_0, timestep, eps)
    assert loss == {"denoising": 0}
    loss = denoising_loss(Oracle(target + 1), scheduler, x_0, timestep, eps)
    assert loss["denoising"] == pytest.approx(1)
    # One step to the end with the right answer gives the image back.
    scheduler.set_timesteps(1)
    t = torch.full((4,), 999)
    x_t = scheduler.add_noise(x_0, eps, t)
    answer = target_of(scheduler, x_0, eps, t)
    got = scheduler.step(answer, 999, x_t).prev_sample
    torch.testing.assert_close(got, x_0, atol=2e-3, rtol=0)


def loss_of_a_guess(kind, guess, timestep, **gammas):
    """Return the loss of a network that takes a guess for x_0, told as `kind` asks for it."""
    scheduler = DDIMScheduler(prediction_type=kind)
    weights = timestep_weights(scheduler, **gammas)
    x_0, eps = torch.randn(2, 1, 4, 4).double(), torch.randn(2, 1, 4, 4).double()
    guess = guess.double() + x_0
    a = scheduler.alphas_cumprod.double()[timestep].view(-1, 1, 1, 1)
    guessed_eps = eps + a.sqrt() * (x_0 - guess) / (1 - a).sqrt()
    v = a.sqrt() * guessed_eps - (1 - a).sqrt() * guess
    answer = {"epsilon": guessed_eps, "sample": guess, "v_prediction": v}[kind]
    return denoising_loss(Oracle(answer), scheduler, x_0, timestep, eps, weights)["denoising"]


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_min_snr_weighs_the_error_of_the_image_whatever_is_estimated(kind):
    off, timestep = torch.randn(2, 1, 4, 4), torch.tensor([700, 50])
    a = DDIMScheduler().alphas_cumprod[timestep]
    snr = (a / (1 - a)).clamp(max=5)
    assert snr[1] == 5
    assert snr[0] < 1
    want = (snr * off.square().flatten(1).mean(1)).mean()
    got = loss_of_a_guess(kind, off, timestep, min_snr_gamma=5)
    torch.testing.assert_close(got.float(), want, rtol=1e-4, atol=0)


def test_p2_makes_the_error_of_v_that_of_the_image():
    off, timestep = torch.randn(2, 1, 4, 4), torch.tensor([700, 50])
    got = loss_of_a_guess("v_prediction", off, timestep, p2_gamma=1)
    torch.testing.assert_close(got.float(), off.square().mean(), rtol=1e-4, atol=0)


def test_without_gammas_all_timesteps_weigh_alike():
    assert timestep_weights(DDIMScheduler()) is None


def test_noise_of_an_image_does_not_depend_on_the_number_of_processes():
    timestep, eps = draw_noise((8, 1, 4, 4), 1000, derived_generator(0, "noise", 5))
    again, same = draw_noise((8, 1, 4, 4), 1000, derived_generator(0, "noise", 5))
    assert torch.equal(timestep, again)
    assert torch.equal(eps.chunk(2)[1], same[4:])
