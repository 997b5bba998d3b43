"""Inpainting: what is known stays, bit for bit; what is made depends on nothing behind the mask."""

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, HeunDiscreteScheduler
from PIL import Image

from sizes import U_NET
from spikediff.diffusion.autoencoder_pipeline import VAEPipeline
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.schedulers import SCHEDULERS, make_scheduler
from spikediff.editing.inpaint import resampling_walk
from spikediff.editing.pipelines import SpikingInpaintPipeline
from spikediff.errors import UserError
from spikediff.systems.fsddim.merged.merge import carry_currents
from spikediff.systems.fsddim.network import SynapticCurrentUNet
from spikediff.systems.fsddim.pipeline import SynapticCurrentPipeline
from spikediff.systems.fsvae.vae import VAE

STEPS = {"num_inference_steps": 2}


@pytest.fixture
def pipe(parts, quiet):
    return quiet(SpikingInpaintPipeline, parts)


def test_known_pixels_of_a_pil_image(pipe, pixels, mask):
    picture = Image.fromarray(pixels[0, 0].numpy())
    paper = Image.fromarray(mask.numpy())
    made = pipe(picture, paper, seeds=[0, 1], **STEPS).images
    for image in made:
        got = torch.from_numpy(np.array(image))
        assert torch.equal(got[~mask], pixels[0, 0][~mask])
        assert not torch.equal(got[mask], pixels[0, 0][mask])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_known_pixels_of_arrays_and_tensors(pipe, mask, dtype):
    images = torch.rand(2, 1, 8, 8, dtype=dtype, generator=torch.Generator().manual_seed(3))
    tensor = pipe(images, mask, seeds=[0, 1], output_type="pt", **STEPS).images
    assert torch.equal(tensor[..., ~mask], images[..., ~mask].to(tensor.dtype))
    assert tensor.dtype == dtype, "the finer type, or known pixels would be rounded"
    array = images.permute(0, 2, 3, 1).numpy()
    got = pipe(array, mask.numpy(), seeds=[0, 1], output_type="np", **STEPS).images
    np.testing.assert_array_equal(got, tensor.permute(0, 2, 3, 1).numpy())


def test_known_pixels_of_every_grey_level(pipe, mask):
    """Out as "pt", a grey level is itself divided by 255; from there back, the same level."""
    levels = torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8)
    unit = pipe(levels, mask, output_type="pt", **STEPS).images
    assert torch.equal(unit[..., ~mask], (levels / 255)[..., ~mask])
    again = pipe(unit, mask, **STEPS).images
    got = torch.stack([torch.from_numpy(np.array(image)) for image in again])
    assert torch.equal(got[:, ~mask], levels[:, 0][:, ~mask])


@pytest.mark.parametrize("output_type", ["pil", "pt"])
def test_a_white_mask_is_generation(parts, pipe, quiet, pixels, output_type):
    kind = SpikingDiffusionPipeline
    if hasattr(parts["unet"], "first_currents"):
        kind = SynapticCurrentPipeline
    options = {"seeds": [4, 5, 6], "output_type": output_type, **STEPS}
    want = quiet(kind, parts)(**options).images
    got = pipe(pixels, torch.ones(8, 8), **options).images
    for a, b in zip(got, want, strict=True):
        assert np.array_equal(np.asarray(a), np.asarray(b))


def test_a_black_mask_calls_no_network(pipe, pixels):
    got = pipe(
        pixels, torch.zeros(8, 8), output_type="pt", callback_on_step_end=pytest.fail, **STEPS
    )
    assert torch.equal(got.images, pixels / 255)


def test_what_is_behind_the_mask_has_no_influence(pipe, pixels, mask):
    options = {"seeds": [0, 1, 2], "output_type": "pt", "num_resamples": 2, **STEPS}
    other = pixels.masked_fill(mask, 255)
    assert torch.equal(pipe(pixels, mask, **options).images, pipe(other, mask, **options).images)
    weak = {**options, "strength": 0.5, "num_resamples": 1}
    assert not torch.equal(pipe(pixels, mask, **weak).images, pipe(other, mask, **weak).images)


def test_what_is_known_has_influence(pipe, pixels, mask):
    options = {"seeds": [0], "output_type": "pt", **STEPS}
    made = [pipe(one, mask, **options).images[..., mask] for one in (pixels[0], 255 - pixels[0])]
    assert not torch.equal(*made)


def test_an_image_depends_on_its_seed_and_its_input_alone(pipe, pixels, mask):
    masks = torch.stack([mask, ~mask, mask.flip(0)])[:, None]
    options = {"output_type": "pt", "num_resamples": 2, **STEPS}
    together = pipe(pixels, masks, seeds=[7, 8, 9], **options).images
    for k in (2, 0):
        alone = pipe(pixels[k], masks[k], seeds=[7 + k], **options).images
        assert torch.equal(alone[0], together[k])


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers(unet, quiet, pixels, mask, name):
    scheduler = make_scheduler(name, {"second_moment": [0.5] * 1000})
    pipe = quiet(SpikingInpaintPipeline, {"unet": unet, "scheduler": scheduler})
    options = {"seeds": [0, 1, 2], "output_type": "pt", **STEPS}
    images = pipe(pixels, mask, **options).images
    assert torch.equal(images[..., ~mask], (pixels / 255)[..., ~mask])
    assert torch.equal(pipe(pixels[1], mask, **{**options, "seeds": [1]}).images[0], images[1])
    if name in ("dpmsolver++", "unipc", "deis"):
        with pytest.raises(UserError, match="cannot go back"):
            pipe(pixels, mask, num_resamples=2, **options)
    else:
        assert not torch.equal(pipe(pixels, mask, num_resamples=2, **options).images, images)


@pytest.mark.parametrize("kind", [EulerDiscreteScheduler, HeunDiscreteScheduler])
def test_schedulers_whose_noise_grows(unet, quiet, pixels, mask, kind):
    """x_t = x_0 + sigma eps, and Heun's two calls a step: the known pixels are as noisy as x_s."""
    pipe = quiet(SpikingInpaintPipeline, {"unet": unet, "scheduler": kind()})
    spread = []

    def look(_pipe, _i, _t, tensors):
        spread.append(float((tensors["sample"] - (pixels / 127.5 - 1))[..., ~mask].std()))

    options = {"seeds": range(3), "strength": 0.5, "num_inference_steps": 4}
    pipe(pixels, mask, callback_on_step_end=look, **options)
    sigmas = pipe.scheduler.sigmas[-len(spread) :]
    assert spread == pytest.approx(sigmas.tolist(), rel=0.2)
    assert spread[-1] == 0.0


def test_the_callback_sees_known_pixels_as_noisy_as_the_sample(parts, pipe, pixels, mask):
    """Of currents they are the same at every spiking step, so decoding gives them back."""
    seen = []

    def look(_pipe, i, timestep, tensors):
        seen.append((i, int(timestep), {k: v.clone() for k, v in tensors.items()}))

    options = {"seeds": [0, 1, 2], "num_inference_steps": 4}
    pipe(pixels, mask, callback_on_step_end=look, **options)
    assert [(i, t) for i, t, _ in seen] == [(0, 999), (1, 749), (2, 499), (3, 249)]
    known = (pixels / 127.5 - 1)[..., ~mask]
    for (_, _, tensors), t in zip(seen, (749, 499, 249), strict=False):
        abar = float(parts["scheduler"].alphas_cumprod[t])
        noise = (tensors["sample"][..., ~mask] - abar**0.5 * known) / (1 - abar) ** 0.5
        assert float(noise.std()) == pytest.approx(1, abs=0.15)
        assert float(noise.mean()) == pytest.approx(0, abs=0.2)
    last = seen[-1][2]
    torch.testing.assert_close(last["sample"][..., ~mask], known)
    if "currents" in last:
        assert float(last["currents"][..., ~mask].var(0).max()) == 0.0


def test_resampling_makes_a_network_call_each(unet, quiet, pixels, mask):
    pipe = quiet(SpikingInpaintPipeline, {"unet": unet, "scheduler": make_scheduler("ddim")})
    times = []
    hook = unet.register_forward_pre_hook(lambda _m, inputs: times.append(int(inputs[1])))
    options = {"seeds": [0, 1, 2], "num_inference_steps": 4}
    told = []
    options["callback_on_step_end"] = lambda p, *_: told.append(p.num_timesteps)
    pipe(pixels, mask, num_resamples=2, jump_length=2, **options)
    hook.remove()
    assert times == [999, 749, 499, 249, 499, 249]
    assert told == [6] * 6


def test_resampling_walk():
    """RePaint's schedule with `jump_length` 2 and `jump_n_sample` 3, counted from the noise."""
    assert resampling_walk(6, 3, 2) == [0, 1, 2, 3, 2, 3, 2, 3, 4, 5, 4, 5, 4, 5]
    assert resampling_walk(5, 1, 3) == list(range(5))
    for steps, resamples, jump in ((50, 10, 10), (7, 3, 2), (5, 2, 4)):
        walk = resampling_walk(steps, resamples, jump)
        jumps = len(range(0, steps - jump, jump))
        assert len(walk) == steps + (resamples - 1) * jump * jumps
        assert walk[0] == 0
        assert walk[-1] == steps - 1
    with pytest.raises(UserError, match="jump_length = 5 must be less than the 5 steps made"):
        resampling_walk(5, 2, 5)


def test_made_from_the_parts_of_a_pipeline(parts, unet, quiet, pixels, mask):
    kind = SpikingDiffusionPipeline if parts["unet"] is unet else SynapticCurrentPipeline
    pipe = quiet(kind, parts)
    made = [SpikingInpaintPipeline.from_pipe(pipe), SpikingInpaintPipeline(**pipe.components)]
    for one in made:
        one.set_progress_bar_config(disable=True)
    first, second = (one(pixels, mask, seeds=range(3), **STEPS).images for one in made)
    assert [a.tobytes() for a in first] == [b.tobytes() for b in second]
    with pytest.raises(UserError, match="a VAEPipeline has no scheduler and no unet"):
        SpikingInpaintPipeline.from_pipe(VAEPipeline(VAE(8, 1, channels=(4, 8), latent_channels=6)))


def test_event_driven(unet, quiet, pixels, mask):
    pipe = quiet(SpikingInpaintPipeline, {"unet": unet, "scheduler": make_scheduler("ddim")})
    images = pipe.compile_for_inference()(pixels, mask, seeds=range(3), output_type="pt", **STEPS)
    assert torch.equal(images.images[..., ~mask], (pixels / 255)[..., ~mask])


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"mask_image": torch.ones(7, 8)}, "mask: 8x7"),
        ({"image": torch.zeros(1, 9, 9)}, "image: 9x9 with 1 channel; the model makes 8x8"),
        ({"seeds": [1, 2]}, "3 images for 2 seeds"),
        ({"mask_image": torch.ones(2, 1, 8, 8)}, "2 masks for 3 seeds"),
        ({"batch_size": 2}, "3 seeds for batch_size = 2"),
        ({"strength": 0.0}, "in \\(0, 1\\]"),
        ({"strength": 1.1}, "in \\(0, 1\\]"),
        ({"strength": 0.1}, "less than one"),
        ({"strength": None}, "strength = None must be a finite number"),
        ({"num_resamples": 0}, "num_resamples"),
        ({"num_resamples": 1.5}, "num_resamples = 1.5 must be a whole number"),
        ({"num_resamples": 10**9}, "num_resamples = 1000000000 must lie between 1 and 1000"),
        ({"jump_length": 1.5}, "jump_length = 1.5 must be a whole number"),
        ({"eta": "1"}, "eta = "),
        ({"callback_on_step_end": 1}, "callback_on_step_end = 1 must be a function"),
        ({"callback_on_step_end_tensor_inputs": 1}, "must be a list of names"),
        ({"callback_on_step_end_tensor_inputs": [1]}, "unknown 1; choose from"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"output_type": "jpeg"}, "output_type"),
    ],
)
def test_bad_calls_are_told(pipe, pixels, mask, options, word):
    call = {"image": pixels, "mask_image": mask, "seeds": [1, 2, 3], **STEPS}
    with pytest.raises(UserError, match=word):
        pipe(**{**call, **options})


def test_currents_take_no_noise_and_no_stem(currents_unet, quiet, pixels, mask):
    with pytest.raises(UserError, match="not known to be linear and to draw no fresh noise"):
        SpikingInpaintPipeline(
            currents_unet, make_scheduler("ddpm").from_config({"clip_sample": False})
        )
    pipe = quiet(
        SpikingInpaintPipeline,
        {"unet": currents_unet, "scheduler": make_scheduler("synaptic-ddim")},
    )
    with pytest.raises(UserError, match="eta"):
        pipe(pixels, mask, eta=0.5)
    spiking_stem = SynapticCurrentUNet(
        **U_NET,
        spiking_steps=4,
        spiking_stem=True,
    )
    parts = {"unet": carry_currents(spiking_stem.eval()), "scheduler": pipe.scheduler}
    with pytest.raises(UserError, match="carries the stem's currents"):
        quiet(SpikingInpaintPipeline, parts)(pixels, mask, **STEPS)
