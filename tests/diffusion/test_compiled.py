"""Every pipeline in event-driven form: its images, its other methods, its seeds, its refusals."""

import pytest
import torch

import spikediff
from small_pipelines import MAKERS, make
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.pipeline import OwnPipeline
from spikediff.diffusion.saving import PIPELINES
from spikediff.energy import EnergyMeter
from spikediff.errors import UserError
from spikediff.events import EventConv2d, PackedNeuron
from spikediff.native import native
from spikediff.systems.sdm.threshold_guidance import threshold_guidance


def draw(pipe, seeds, **options):
    return pipe(seeds=seeds, num_inference_steps=2, output_type="pt", **options).images


def test_every_pipeline_can_be_compiled():
    assert all(issubclass(getattr(spikediff, name), OwnPipeline) for name in PIPELINES)


@pytest.mark.parametrize("name", MAKERS)
def test_images_of_a_compiled_pipeline(name):
    """Nothing flips in networks this small, so that the images agree to rounding."""
    pipe = make(name)
    want = draw(pipe, range(3))
    compiled = pipe.compile_for_inference()
    assert compiled is pipe
    assert pipe.event_driven
    assert pipe.event_weights == "float32"
    assert (draw(pipe, range(3)) - want).abs().max() < 1e-4


@pytest.mark.parametrize("name", MAKERS)
def test_an_image_still_depends_on_its_seed_alone(name):
    pipe = make(name).compile_for_inference()
    together = draw(pipe, range(5))
    for batch in ([3], range(1, 4)):
        for seed, image in zip(batch, draw(pipe, batch), strict=True):
            assert torch.equal(image, together[seed]), f"seed {seed} in a batch of {len(batch)}"


@pytest.mark.parametrize("name", ["tokens", "fsvae", "vae"])
def test_reconstructions(name):
    pipe = make(name)
    size = pipe.components.get("vqvae", pipe.components.get("vae")).config.sample_size
    images = torch.rand(4, 1, size, size) * 2 - 1
    want = pipe.reconstruct(images)
    assert want.std() > 0.01
    torch.testing.assert_close(
        pipe.compile_for_inference().reconstruct(images), want, atol=1e-4, rtol=0
    )


def test_tokens_and_inpainting():
    pipe = make("tokens")
    images = torch.rand(2, 1, 8, 8) - 0.5
    known, mask = pipe.vqvae.encode(images), torch.zeros(4, 4).bool()
    mask[:2] = True
    want = draw(pipe, range(2), tokens=known, mask=mask)
    pipe.compile_for_inference()
    assert torch.equal(pipe.vqvae.encode(images), known)
    got = draw(pipe, range(2), tokens=known, mask=mask)
    torch.testing.assert_close(got, want, atol=1e-4, rtol=0)
    grids = draw_tokens(pipe, known, mask)
    assert torch.equal(grids[:, 2:], known[:, 2:])


def draw_tokens(pipe, known, mask):
    return pipe(seeds=range(2), tokens=known, mask=mask, output_type="tokens").images


@pytest.mark.parametrize("name", ["currents", "currents, both"])
def test_a_stream_of_currents(name):
    pipe = make(name).compile_for_inference()
    difference = draw(pipe, range(2), stream=True) - draw(pipe, range(2))
    assert difference.abs().max() < 1e-4


@pytest.mark.skipif(native() is None, reason="the C kernels are not built")
def test_the_networks_are_copies_and_event_driven():
    pipe = make("denoiser")
    unet = pipe.unet
    pipe.compile_for_inference()
    assert pipe.unet is not unet
    assert pipe.components["unet"] is pipe.unet
    assert not any(isinstance(m, PackedNeuron | EventConv2d) for m in unet.modules())
    assert any(isinstance(m, PackedNeuron) for m in pipe.unet.modules())


def test_guidance_reaches_packed_neurons():
    pipe = make("denoiser")
    with threshold_guidance(pipe.unet, 0.8):
        want = draw(pipe, range(2))
    plain = draw(pipe.compile_for_inference(), range(2))
    with threshold_guidance(pipe.unet, 0.8):
        got = draw(pipe, range(2))
    torch.testing.assert_close(got, want, atol=1e-4, rtol=0)
    assert (got - plain).abs().max() > 1e-3


def test_it_is_neither_saved_nor_measured(tmp_path):
    pipe = make("denoiser")
    assert not pipe.event_driven
    pipe.save_pretrained(tmp_path / "before")
    pipe.compile_for_inference()
    with pytest.raises(UserError, match="save the pipeline before that"):
        pipe.save_pretrained(tmp_path / "after")
    assert not (tmp_path / "after").exists()
    with pytest.raises(UserError, match="measure the original model"):
        EnergyMeter(pipe)
    again = SpikingDiffusionPipeline.from_pretrained(tmp_path / "before").compile_for_inference()
    again.set_progress_bar_config(disable=True)
    assert torch.equal(draw(again, range(2)), draw(pipe, range(2)))


def test_a_network_that_cannot_be_compiled_leaves_the_pipeline_whole():
    pipe = make("tokens")
    vqvae, _ = pipe.vqvae, pipe.decoder.double()
    with pytest.raises(UserError, match="float64"):
        pipe.compile_for_inference()
    assert pipe.vqvae is vqvae
    assert not pipe.event_driven
