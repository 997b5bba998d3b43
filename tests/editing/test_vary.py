"""Variations: how much of an image its noised self still holds, and seeds."""

import pytest
import torch
from diffusers.configuration_utils import FrozenDict

from mixture import GAUSSIAN
from spikediff.diffusion.schedulers import SCHEDULERS, make_scheduler
from spikediff.editing.pipelines import SpikingImg2ImgPipeline
from spikediff.errors import UserError

STEPS = {"num_inference_steps": 2, "output_type": "pt"}


@pytest.fixture
def pipe(parts, quiet):
    return quiet(SpikingImg2ImgPipeline, parts)


def test_a_variation_depends_on_its_seed_and_its_input_alone(pipe, pixels):
    together = pipe(pixels, strength=0.5, seeds=[7, 8, 9], **STEPS).images
    alone = pipe(pixels[2], strength=0.5, seeds=[9], **STEPS).images
    assert torch.equal(alone[0], together[2])
    assert not torch.equal(together[2], pipe(pixels[2], seeds=[8], **STEPS).images[0])


def test_strength_says_which_steps_are_made(pipe, pixels):
    for strength, want in ((1.0, [999, 499]), (0.5, [499])):
        seen = []
        pipe(
            pixels,
            strength=strength,
            seeds=range(3),
            callback_on_step_end=lambda p, _i, t, _x, seen=seen: seen.append(
                (int(t), p.num_timesteps)
            ),
            **STEPS,
        )
        assert seen == [(t, len(want)) for t in want]


class _Exact(torch.nn.Module):
    """The exact noise estimate of pixels that are independent Gaussians of mean 0."""

    def __init__(self):
        super().__init__()
        self.config = FrozenDict(sample_size=64, in_channels=1)
        self.dtype, self.device = torch.float64, torch.device("cpu")
        self.abar = make_scheduler("synaptic-ddim").alphas_cumprod

    def forward(self, sample, timestep):
        abar = self.abar[int(timestep)]
        return type("Output", (), {"sample": GAUSSIAN.noise_estimate(sample, abar)})


@pytest.mark.parametrize("strength", [0.2, 0.5, 0.9])
def test_the_share_of_the_image_that_is_left(quiet, strength):
    """For Gaussian data the flow scales, so the correlation with the image is that of x_t.

    x_0' = k (a x_0 + sigma eps) with the data's variance, hence a correlation of
    a std / sqrt(a^2 std^2 + sigma^2).
    """
    scheduler = make_scheduler("synaptic-ddim", {"prediction_type": "epsilon"})
    pipe = quiet(SpikingImg2ImgPipeline, {"unet": _Exact(), "scheduler": scheduler})
    std = float(GAUSSIAN.stds)
    draw = torch.Generator().manual_seed(0)
    x_0 = (std * torch.randn(1, 1, 64, 64, dtype=torch.float64, generator=draw)).clamp(-1, 1)
    got = pipe(x_0 / 2 + 0.5, strength, 100, seeds=[1], output_type="pt").images * 2 - 1
    first = int(pipe.scheduler.timesteps[round(100 - 100 * strength)])
    abar = float(scheduler.alphas_cumprod[first])
    want = (abar**0.5) * std / (abar * std**2 + 1 - abar) ** 0.5
    correlation = torch.corrcoef(torch.stack([x_0.flatten(), got.flatten()]))[0, 1]
    assert float(correlation) == pytest.approx(want, abs=0.04)  # 4096 pixels: 0.016
    assert float(got.std()) == pytest.approx(std, rel=0.06)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers(unet, quiet, pixels, name):
    scheduler = make_scheduler(name, {"second_moment": [0.5] * 1000})
    pipe = quiet(SpikingImg2ImgPipeline, {"unet": unet, "scheduler": scheduler})
    images = pipe(pixels, strength=0.5, seeds=range(3), **STEPS).images
    assert torch.equal(pipe(pixels[1], seeds=[1], **STEPS).images[0], images[1])


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"strength": -0.5}, "in \\(0, 1\\]"),
        ({"strength": 0.1}, "less than one"),
        ({"seeds": [1, 2]}, "3 images for 2 seeds"),
        ({"image": torch.zeros(3, 8, 8)}, "8x8 with 3 channels"),
        ({"output_type": "jpeg"}, "output_type"),
    ],
)
def test_bad_calls_are_told(pipe, pixels, options, word):
    with pytest.raises(UserError, match=word):
        pipe(**{"image": pixels, **STEPS, **options})
