"""The editing functions take the pipeline that generates; the classes call the same functions."""

import pytest
import torch

from small_pipelines import make
from spikediff import (
    SpikingImg2ImgPipeline,
    SpikingInpaintPipeline,
    SpikingInversionPipeline,
    VQSpikingImg2ImgPipeline,
    VQSpikingInpaintPipeline,
    inpaint,
    interpolate_seeds,
    invert,
    vary,
)
from spikediff.editing.invert import regenerate
from spikediff.errors import UserError

CALL = {"num_inference_steps": 2, "output_type": "pt", "seeds": [4, 5, 6]}


@pytest.mark.parametrize("name", ["denoiser", "currents", "tokens"])
def test_a_function_gives_the_bits_of_its_class(name, pixels, mask):
    pipe = make(name)
    tokens = name == "tokens"
    inpaints = VQSpikingInpaintPipeline if tokens else SpikingInpaintPipeline
    varies = VQSpikingImg2ImgPipeline if tokens else SpikingImg2ImgPipeline
    got = inpaint(pipe, pixels, mask, **CALL).images
    assert torch.equal(got, inpaints.from_pipe(pipe)(pixels, mask, **CALL).images)
    got = vary(pipe, pixels, 0.5, **CALL).images
    assert torch.equal(got, varies.from_pipe(pipe)(pixels, 0.5, **CALL).images)
    if not tokens:
        inverts = SpikingInversionPipeline.from_pipe(pipe)
        noise = invert(pipe, pixels, 2).latents
        assert torch.equal(noise, inverts.invert(pixels, 2).latents)
        images = regenerate(pipe, noise, 2, output_type="pt").images
        assert torch.equal(images, inverts(noise, 2, output_type="pt").images)


def test_options_of_the_other_kind_are_refused(pixels, mask):
    denoiser, tokens = make("denoiser"), make("tokens")
    for options in ({"token_margin": 1}, {"temperature": 0.5}):
        with pytest.raises(UserError, match=f"{next(iter(options))}: .* has none"):
            inpaint(denoiser, pixels, mask, **options)
    for options in ({"strength": 0.5}, {"num_resamples": 2}, {"jump_length": 2}, {"eta": 0.5}):
        with pytest.raises(UserError, match=f"{next(iter(options))}: .* has none"):
            inpaint(tokens, pixels, mask, **options)
    with pytest.raises(UserError, match=r"eta: .* has none"):
        vary(tokens, pixels, eta=0.5)


def test_what_has_no_diffusion_is_refused(pixels, mask):
    with pytest.raises(UserError, match="has no diffusion"):
        inpaint(make("vae"), pixels, mask)
    with pytest.raises(UserError, match="has no diffusion"):
        vary(make("vae"), pixels)
    for name in ("vae", "tokens"):
        with pytest.raises(UserError, match="has no diffusion"):
            invert(make(name), pixels)


@pytest.mark.parametrize("edit", [inpaint, vary, invert, interpolate_seeds])
def test_a_name_is_not_a_pipeline(edit, pixels):
    arguments = {inpaint: (pixels, pixels), interpolate_seeds: ([0, 1], 2)}.get(edit, (pixels,))
    with pytest.raises(UserError, match="'mnist' is not a pipeline"):
        edit("mnist", *arguments)
