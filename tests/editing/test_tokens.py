"""Editing in tokens: which tokens a mask concerns, and pixels that stay."""

import numpy as np
import pytest
import torch
from PIL import Image

from spikediff import (
    SpikingInpaintPipeline,
    VQSpikingImg2ImgPipeline,
    VQSpikingInpaintPipeline,
)
from spikediff.editing.inpaint import token_mask
from spikediff.errors import UserError
from spikediff.systems.spiking_diffusion.pipeline import VQSpikingDiffusionPipeline

STEPS = {"num_inference_steps": 4}


@pytest.fixture
def pipe(token_parts, quiet):
    return quiet(VQSpikingInpaintPipeline, token_parts)


def test_token_mask(mask):
    """Blocks of 2 x 2 pixels: a token for every one that the mask touches."""
    got = token_mask(mask[None, None], (4, 4))[0]
    want = mask.view(4, 2, 4, 2).any(3).any(1)
    assert torch.equal(got, want)
    assert got.int().tolist() == [[1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]]
    wider = token_mask(mask[None, None], (4, 4), margin=1)[0]
    assert token_mask(mask[None, None], (4, 4), margin=10**12).all()
    assert wider.int().tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1], [0, 1, 1, 1]]


@pytest.mark.parametrize("margin", [0, 1])
def test_known_pixels_stay(pipe, pixels, mask, margin):
    options = {"seeds": [0, 1, 2], "token_margin": margin, **STEPS}
    made = pipe(pixels, mask, **options).images
    got = torch.stack([torch.from_numpy(np.array(image)) for image in made])[:, None]
    assert torch.equal(got[..., ~mask], pixels[..., ~mask])
    assert not torch.equal(got[..., mask], pixels[..., mask])
    unit = pipe(pixels / 255, mask, output_type="pt", **options).images
    assert torch.equal(unit[..., ~mask], (pixels / 255)[..., ~mask])


def test_known_tokens_stay_and_nothing_behind_the_mask_has_influence(pipe, pixels, mask):
    grids = []
    for images in (pixels, pixels.masked_fill(mask, 255)):
        seen = []
        pipe(
            images,
            mask,
            seeds=[0, 1, 2],
            callback_on_step_end=lambda _p, _i, _t, x, seen=seen: seen.append(x["sample"]),
            **STEPS,
        )
        grids.append(seen[-1])
    assert torch.equal(*grids)
    inner = VQSpikingDiffusionPipeline(**pipe.components)
    black = (pixels / 127.5 - 1).masked_fill(mask, -1)
    known = ~token_mask(mask[None, None], (4, 4))[0]
    assert torch.equal(grids[0][:, known], inner.encode(black)[:, known])


def test_an_image_depends_on_its_seed_and_its_input_alone(pipe, pixels, mask):
    options = {"output_type": "pt", "top_p": 0.95, "temperature": 0.8, **STEPS}
    together = pipe(pixels, mask, seeds=[7, 8, 9], **options).images
    alone = pipe(pixels[2], mask, seeds=[9], **options).images
    assert torch.equal(alone[0], together[2])


def test_white_and_black_masks(pipe, token_parts, quiet, pixels):
    options = {"seeds": [4, 5, 6], "output_type": "pt", **STEPS}
    want = quiet(VQSpikingDiffusionPipeline, token_parts)(**options).images
    assert torch.equal(pipe(pixels, torch.ones(8, 8), **options).images, want)
    same = pipe(pixels, torch.zeros(8, 8), callback_on_step_end=pytest.fail, **options).images
    assert torch.equal(same, pixels / 255)


def test_variations(token_parts, quiet, pixels):
    """A token keeps its value with probability 1 - strength; what is masked is drawn."""
    pipe = quiet(VQSpikingImg2ImgPipeline, token_parts)
    tokens = VQSpikingDiffusionPipeline(**token_parts).encode(pixels[:1] / 127.5 - 1)
    kept = {}
    for strength in (0.25, 0.75):
        seen = []
        pipe(
            pixels[0],
            strength=strength,
            seeds=range(40),
            callback_on_step_end=lambda _p, i, _t, x, seen=seen: seen.append(x["sample"]),
            num_inference_steps=16,
        )
        assert len(seen) == strength * 16
        kept[strength] = float((seen[-1] == tokens).float().mean())
    # 640 tokens: 0.02; some that are drawn are the same by chance
    assert kept[0.25] > 0.75 - 0.06
    assert 0.25 - 0.06 < kept[0.75] < kept[0.25] - 0.2
    options = {"strength": 0.5, "output_type": "pt", **STEPS}
    together = pipe(pixels, seeds=[7, 8, 9], **options).images
    assert torch.equal(pipe(pixels[1], seeds=[8], **options).images[0], together[1])


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"token_margin": -1}, "token_margin"),
        ({"token_margin": 0.5}, "token_margin = 0.5 must be a whole number"),
        ({"image": Image.new("RGB", (8, 8))}, "convert\\('L'\\)"),
        ({"image": Image.new("L", (9, 8))}, "9x8"),
        ({"num_inference_steps": 17}, "between 1 and 16"),
        ({"output_type": "tokens"}, "output_type"),
    ],
)
def test_bad_calls_are_told(pipe, pixels, mask, options, word):
    with pytest.raises(UserError, match=word):
        pipe(**{"image": pixels, "mask_image": mask, **options})


def test_the_two_ways_of_inpainting_are_told_apart(token_parts):
    with pytest.raises(UserError, match="has no unet"):
        SpikingInpaintPipeline.from_pipe(VQSpikingDiffusionPipeline(**token_parts))
