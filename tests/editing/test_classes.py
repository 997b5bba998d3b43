"""Editing of a class: the label reaches the network, in images and in currents."""

import pytest
import torch

from sizes import ONE_LEVEL
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.editing.pipelines import (
    SpikingImg2ImgPipeline,
    SpikingInpaintPipeline,
    SpikingInversionPipeline,
)
from spikediff.errors import UserError
from spikediff.systems.fsddim.network import SynapticCurrentUNet
from spikediff.systems.fsddim.pipeline import SynapticCurrentPipeline
from spikediff.systems.sddpm.network import SpikingUNet

STEPS = {"num_inference_steps": 2, "output_type": "pt"}
CLASS = {"class_labels": [0, 2, 1], "guidance_scale": 2.0}


@pytest.fixture(scope="module", params=[SpikingUNet, SynapticCurrentUNet])
def parts(request):
    torch.manual_seed(0)
    unet = request.param(**ONE_LEVEL, spiking_steps=4, num_classes=3)
    for name, parameter in unet.named_parameters():
        if name.startswith("head") and parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    with torch.no_grad():
        for name, buffer in unet.named_buffers():
            if "running_var" in name:
                buffer.uniform_(0.02, 0.1)
    return {"unet": unet.eval(), "scheduler": make_scheduler("synaptic-ddim")}


def test_a_white_mask_is_generation_of_the_class(parts, quiet, pixels):
    currents = isinstance(parts["unet"], SynapticCurrentUNet)
    generates = quiet(SynapticCurrentPipeline if currents else SpikingDiffusionPipeline, parts)
    inpaints = quiet(SpikingInpaintPipeline, parts)
    want = generates(seeds=[0, 1, 2], **CLASS, **STEPS).images
    got = inpaints(pixels, torch.ones(8, 8), seeds=[0, 1, 2], **CLASS, **STEPS).images
    assert torch.equal(got, want)


@pytest.mark.parametrize("kind", [SpikingInpaintPipeline, SpikingImg2ImgPipeline])
def test_the_class_makes_a_difference(parts, quiet, pixels, mask, kind):
    pipe = quiet(kind, parts)
    call = {"image": pixels, "seeds": [0, 1, 2], **STEPS}
    call |= {"mask_image": mask} if kind is SpikingInpaintPipeline else {}
    one, other = (pipe(class_labels=label, **call).images for label in (0, 1))
    assert not torch.equal(one, other)
    with pytest.raises(UserError, match="knows 0 to 2"):
        pipe(class_labels=3, **call)


def test_inversion_of_a_class(parts, quiet, pixels):
    pipe = quiet(SpikingInversionPipeline, parts)
    labels = {"num_inference_steps": 2, "class_labels": [0, 2, 1]}
    latents = pipe.invert(pixels, **labels).latents
    alone = {**labels, "class_labels": 2}
    assert torch.equal(pipe.invert(pixels[1], **alone).latents[0], latents[1])
    assert not torch.equal(pipe.invert(pixels, **alone).latents[0], latents[0])
    images = pipe(latents, output_type="pt", **labels).images
    assert torch.equal(pipe(latents[1:2], output_type="pt", **alone).images[0], images[1])
