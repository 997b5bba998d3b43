"""Pipelines make exactly the steps that are asked for, whatever class their folder names."""

import diffusers
import pytest
import torch

from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.editing.pipelines import (
    SpikingImg2ImgPipeline,
    SpikingInpaintPipeline,
    SpikingInversionPipeline,
)
from spikediff.errors import UserError
from spikediff.systems.sddpm.network import SpikingUNet

PLAIN = {"timestep_spacing": "trailing", "beta_schedule": "squaredcos_cap_v2"}
CLASSES = ("DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler")


def denoiser():
    """As quick a network as there is: its calls are counted."""
    torch.manual_seed(0)
    unet = SpikingUNet(
        8, 1, base_channels=4, channel_mult=(1,), layers_per_block=1, spiking_steps=1
    )
    torch.nn.init.normal_(unet.head.conv.weight)  # an untrained head estimates hardly anything
    pipe = SpikingDiffusionPipeline(unet.eval(), make_scheduler("ddim"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Watched:
    """Counts the timesteps that a network is asked for."""

    def __init__(self, unet):
        self.asked = []
        unet.register_forward_pre_hook(lambda _module, args: self.asked.append(int(args[1])))


@pytest.mark.parametrize("class_name", CLASSES)
def test_as_many_calls_as_asked_for(class_name):
    pipe = denoiser()
    pipe.scheduler = getattr(diffusers, class_name)(**PLAIN, num_train_timesteps=15)
    watched = Watched(pipe.unet)
    pipe(num_inference_steps=13, seeds=[0])  # diffusers makes 14
    assert len(watched.asked) == len(set(watched.asked)) == 13
    assert min(watched.asked) >= 0
    assert pipe.scheduler.timesteps.tolist() == watched.asked

    images = pipe(num_inference_steps=5, seeds=[0], output_type="pt").images
    pipe.scheduler = make_scheduler("ddim", pipe.scheduler.config)
    pipe.scheduler = getattr(diffusers, class_name).from_config(pipe.scheduler.config)
    assert torch.equal(images, pipe(num_inference_steps=5, seeds=[0], output_type="pt").images)


@pytest.mark.parametrize("class_name", CLASSES)
def test_edits_make_the_steps_of_the_sampler(class_name):
    """The steps of an edit are those of the sampler, in any number."""
    pipe = SpikingInpaintPipeline.from_pipe(denoiser())
    pipe.scheduler = getattr(diffusers, class_name)(**PLAIN, num_train_timesteps=15)
    image, mask = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1
    watched = Watched(pipe.unet)
    pipe(image, mask, num_inference_steps=13, seeds=[0])
    assert len(watched.asked) == 13
    watched.asked.clear()
    pipe = SpikingImg2ImgPipeline.from_pipe(pipe)
    pipe(image, strength=0.5, num_inference_steps=13, seeds=[0])
    assert len(watched.asked) == 6


def test_too_many_steps_are_refused():
    pipe = denoiser()
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler(num_train_timesteps=10)
    with pytest.raises(UserError, match="between 1 and 10"):
        pipe(num_inference_steps=11)


@pytest.mark.parametrize("name", ["ddim", "ddpm", "unipc"])
def test_inversion_keeps_what_the_scheduler_has_by_default(name):
    pipe = SpikingInversionPipeline(denoiser().unet, make_scheduler(name))
    assert pipe.scheduler.config.prediction_type == "epsilon"
    assert pipe.scheduler.config.beta_schedule == "linear"


@pytest.mark.parametrize("class_name", ["DDPMScheduler", *CLASSES])
def test_timesteps_may_be_given(class_name):
    """The sampler's own timesteps give its image; others are visited as given."""
    pipe = denoiser()
    pipe.scheduler = getattr(diffusers, class_name)(**PLAIN)
    image = pipe(num_inference_steps=7, seeds=[0], output_type="pt").images
    own = pipe.scheduler.timesteps.tolist()
    assert torch.equal(image, pipe(timesteps=own, seeds=[0], output_type="pt").images)

    watched, uneven = Watched(pipe.unet), [999, 700, 500, 120, 40, 3]
    pipe(timesteps=uneven, seeds=[0])
    assert watched.asked == uneven


def test_uneven_timesteps_are_those_of_diffusers():
    pipe, uneven = denoiser(), [999, 700, 500, 120, 40, 3]
    theirs = diffusers.DPMSolverMultistepScheduler(**PLAIN)
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler(**PLAIN)
    noise = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images = pipe(timesteps=uneven, latents=noise, output_type="pt").images
    theirs.set_timesteps(timesteps=uneven)
    x = noise
    with torch.no_grad():
        for t in theirs.timesteps:
            x = theirs.step(pipe.unet(x, t).sample, t, x).prev_sample
    assert torch.allclose(images, (x / 2 + 0.5).clamp(0, 1), atol=1e-6)


@pytest.mark.parametrize("timesteps", [[3, 700], [1000, 3], [5, 5], [3, -1], []])
def test_timesteps_that_cannot_be_are_refused(timesteps):
    with pytest.raises(UserError):
        denoiser()(timesteps=timesteps, seeds=[0])


def test_a_sampler_without_given_timesteps_is_refused():
    pipe = denoiser()
    pipe.scheduler = diffusers.PNDMScheduler()
    with pytest.raises(UserError, match="does not support timesteps"):
        pipe(timesteps=[999, 3], seeds=[0])
