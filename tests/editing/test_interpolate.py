"""Spherical interpolation: laws of the arc, and the seeds' own images at its ends."""

import pytest
import torch

from spikediff.diffusion.autoencoder_pipeline import VAEPipeline
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.editing.interpolate import interpolate_noise, interpolate_seeds, slerp
from spikediff.errors import UserError
from spikediff.systems.fsddim.pipeline import SynapticCurrentPipeline
from spikediff.systems.fsvae.vae import VAE
from spikediff.systems.spiking_diffusion.pipeline import VQSpikingDiffusionPipeline


def vectors(dtype=torch.float64):
    draw = torch.Generator().manual_seed(0)
    return (torch.randn(5, 3, 4, 4, dtype=dtype, generator=draw) for _ in range(2))


def angle(a, b):
    return torch.cosine_similarity(a.flatten(1), b.flatten(1)).clamp(-1, 1).arccos()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_an_arc_keeps_the_norm_and_turns_evenly(share):
    a, b = vectors()
    b = b * (a.flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    c = slerp(a, b, share)
    torch.testing.assert_close(c.flatten(1).norm(dim=1), a.flatten(1).norm(dim=1))
    torch.testing.assert_close(angle(a, c), share * angle(a, b))
    torch.testing.assert_close(angle(c, b), (1 - share) * angle(a, b))


def test_shoemake_by_hand():
    """30 degrees of 90: cos 30 and sin 30; of norms 1 and 2, each is scaled alone."""
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    torch.testing.assert_close(slerp(a, b, 1 / 3), torch.tensor([[3**0.5 / 2, 1.0]]))


def test_the_ends_are_the_ends():
    a, b = vectors(torch.float32)
    assert torch.equal(slerp(a, b, 0), a)
    assert torch.equal(slerp(a, b, 1.0), b)
    assert slerp(a, b, 0.3).dtype == torch.float32
    torch.testing.assert_close(slerp(a, b, 0.3), slerp(b, a, 0.7))


def test_vectors_of_one_direction_and_none():
    a, _ = vectors()
    torch.testing.assert_close(slerp(a, 3 * a, 0.25), 1.5 * a)
    torch.testing.assert_close(slerp(0 * a, a, 0.25), 0.25 * a)


def test_the_way_leads_through_every_end():
    draw = torch.Generator().manual_seed(2)
    noise = torch.randn(3, 1, 8, 8, generator=draw)
    noise = noise / noise.square().mean((1, 2, 3), keepdim=True).sqrt()
    way = interpolate_noise(noise, 7)
    assert way.shape == (7, 1, 8, 8)
    for place, end in ((0, 0), (3, 1), (6, 2)):
        assert torch.equal(way[place], noise[end])
    step = angle(way[:-1], way[1:])
    torch.testing.assert_close(step[:3], step[:1].expand(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(way.flatten(1).norm(dim=1), torch.full((7,), 8.0))


def test_the_ends_are_the_seeds_own_images(parts, unet, quiet):
    kind = SpikingDiffusionPipeline if parts["unet"] is unet else SynapticCurrentPipeline
    pipe, options = quiet(kind, parts), {"num_inference_steps": 2, "output_type": "pt"}
    own = pipe(seeds=[3, 7], **options).images
    got = interpolate_seeds(pipe, [3, 7], num_images=4, batch_size=3, **options)
    assert len(got) == 4
    assert torch.equal(got[0], own[0])
    assert torch.equal(got[-1], own[1])
    assert not torch.equal(got[1], got[0])
    again = interpolate_seeds(pipe, [3, 7], num_images=4, batch_size=4, **options)
    assert all(map(torch.equal, got, again)), "whatever the batch"


def test_latents_are_told_when_they_do_not_fit(unet, quiet):
    parts = {"unet": unet, "scheduler": make_scheduler("ddim")}
    pipe = quiet(SpikingDiffusionPipeline, parts)
    with pytest.raises(UserError, match="takes noise"):
        pipe(latents=torch.zeros(2, 1, 4, 4))
    with pytest.raises(UserError, match="takes noise"):
        pipe(latents=torch.zeros(2, 1, 8, 8), seeds=[1])
    with pytest.raises(UserError, match="must be a tensor of noise"):
        pipe(latents=torch.zeros(1, 1, 8, 8).numpy())
    with pytest.raises(UserError, match="omit return_dict=False"):
        interpolate_seeds(pipe, [0, 1], return_dict=False)
    for number in (1.5, 10**12, "3"):
        with pytest.raises(UserError, match="num_images = "):
            interpolate_seeds(pipe, [0, 1], number)


@pytest.mark.parametrize("name", ["ddpm", "analytic-dpm", "ddim"])
def test_steps_that_draw_noise_are_refused(unet, quiet, name):
    scheduler = make_scheduler(name, {"second_moment": [0.5] * 1000})
    pipe = quiet(SpikingDiffusionPipeline, {"unet": unet, "scheduler": scheduler})
    with pytest.raises(UserError, match="batch_size = 0 must be at least 1"):
        interpolate_seeds(pipe, [0, 1], batch_size=0)
    with pytest.raises(UserError, match="draws fresh noise"):
        interpolate_seeds(pipe, [0, 1], eta=0.5 if name == "ddim" else 0.0)


def test_what_starts_from_no_noise_is_refused(token_parts):
    for pipe in (
        VQSpikingDiffusionPipeline(**token_parts),
        VAEPipeline(VAE(8, 1, channels=(4, 8), latent_channels=6)),
    ):
        with pytest.raises(UserError, match="does not start from noise"):
            interpolate_seeds(pipe, [0, 1])


@pytest.mark.parametrize(("ends", "num_images"), [(1, 5), (3, 2)])
def test_too_few_are_told(ends, num_images):
    with pytest.raises(UserError, match="two ends or more"):
        interpolate_noise(torch.randn(ends, 1, 8, 8), num_images)
