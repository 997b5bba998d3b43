"""Generating signals: one seed each, in their own unit, as arrays."""

import numpy as np
import pytest
import torch

from norms import see
from sizes import U_NET
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.outputs import plot_signals
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.errors import UserError
from spikediff.systems.sddpm.network import SpikingUNet


@pytest.fixture(scope="module")
def unet():
    """An untrained net whose head is loud enough that a flipped spike would show."""
    torch.manual_seed(0)
    model = SpikingUNet(
        32, 2, base_channels=8, channel_mult=(1, 2), layers_per_block=1, dimensions=1
    )
    torch.nn.init.normal_(model.head.conv.weight, std=0.1)
    return see(model, torch.randn(16, 2, 32), torch.randint(1000, (16,)))


def make(unet, signal_range=None):
    pipe = SpikingDiffusionPipeline(unet, make_scheduler("ddim"), signal_range)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, seeds, output_type="pt", steps=2):
    return pipe(seeds=seeds, num_inference_steps=steps, output_type=output_type).images


def test_a_signal_depends_on_its_seed_alone(unet):
    pipe = make(unet)
    together = draw(pipe, range(9))
    assert together.shape == (9, 2, 32)
    for batch in ([3], range(1, 8)):
        for seed, signal in zip(batch, draw(pipe, batch), strict=True):
            assert torch.equal(signal, together[seed]), f"seed {seed} in a batch of {len(batch)}"
    assert not torch.equal(together[0], together[1])


def test_the_range_is_a_unit_and_no_fence(unet):
    plain = draw(make(unet), [0, 1])
    assert plain.abs().max() > 1  # an untrained network; images would be clamped
    ranged = draw(make(unet, (-60.0, 20.0)), [0, 1])
    torch.testing.assert_close(ranged, 40 * plain - 20)
    arrays = draw(make(unet, (-60.0, 20.0)), [0, 1], "np")
    assert isinstance(arrays, np.ndarray)
    assert np.array_equal(arrays, ranged.numpy())


def test_pictures_of_signals_are_refused_before_any_work(unet):
    with pytest.raises(UserError, match='makes signals, not pictures; give output_type="np"'):
        make(unet)(seeds=[0])
    with pytest.raises(UserError, match="unknown output_type"):
        draw(make(unet), [0], "wav")


def test_a_saved_pipeline_keeps_the_range(unet, tmp_path):
    pipe = make(unet, (-60.0, 20.0))
    pipe.save_pretrained(tmp_path)
    loaded = SpikingDiffusionPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.makes_signals
    assert torch.equal(draw(loaded, [4]), draw(pipe, [4]))


def test_compiled_pipelines_generate_alike(unet):
    compiled = make(unet).compile_for_inference()
    ours, theirs = draw(compiled, range(4), steps=1), draw(make(unet), range(4), steps=1)
    assert (ours - theirs).abs().mean() < 0.05 * theirs.abs().mean()


def test_images_stay_what_they_were():
    unet = SpikingUNet(**U_NET).eval()
    pipe = make(unet)
    assert not pipe.makes_signals
    assert draw(pipe, [0], "pil", steps=1)[0].size == (8, 8)
    with pytest.raises(UserError, match="the network makes images"):
        make(unet, (-1.0, 1.0))


def test_a_plot_shows_every_signal():
    few, many = (
        plot_signals({"a": torch.randn(n, 1, 16), "b": torch.randn(1, 1, 16)}) for n in (1, 3)
    )
    assert few.width == many.width
    assert few.height < many.height
    assert len(few.getcolors(1 << 16)) > 2
