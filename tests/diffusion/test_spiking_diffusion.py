"""The pipeline: seeds, round trips, schedulers, callbacks."""

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline

from norms import see
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.outputs import image_grid, to_pil
from spikediff.diffusion.schedulers import SCHEDULERS, make_scheduler
from spikediff.errors import UserError
from spikediff.systems.sddpm.network import SpikingUNet


@pytest.fixture(scope="module")
def unet():
    """An untrained net whose head is loud enough that a flipped spike would show."""
    torch.manual_seed(0)
    model = SpikingUNet(
        sample_size=8, in_channels=1, base_channels=16, channel_mult=(1, 2), layers_per_block=1
    )
    torch.nn.init.normal_(model.head.conv.weight, std=0.1)
    return see(model, torch.randn(16, 1, 8, 8), torch.randint(1000, (16,)))


def make(unet, name="ddim"):
    pipe = SpikingDiffusionPipeline(unet, make_scheduler(name, {"second_moment": [0.5] * 1000}))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, seeds, **options):
    return pipe(seeds=seeds, num_inference_steps=3, output_type="pt", **options).images


@pytest.mark.parametrize("name", SCHEDULERS)
def test_an_image_depends_on_its_seed_alone(unet, name):
    pipe = make(unet, name)
    together = draw(pipe, range(9))
    assert together.shape == (9, 1, 8, 8)
    for batch in ([3], range(1, 8)):
        for seed, image in zip(batch, draw(pipe, batch), strict=True):
            assert torch.equal(image, together[seed]), f"seed {seed} in a batch of {len(batch)}"
    assert not torch.equal(together[0], together[1])


def test_round_trip_is_bit_equal(unet, tmp_path):
    pipe = make(unet)
    pipe.save_pretrained(tmp_path)
    assert not list(tmp_path.rglob("*.bin"))
    again = SpikingDiffusionPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert torch.equal(draw(again, range(4)), draw(pipe, range(4)))
    for (name, a), b in zip(
        unet.state_dict().items(), again.unet.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    assert type(again.scheduler) is type(pipe.scheduler)


def test_stock_pipeline_of_diffusers_takes_the_model(unet, tmp_path):
    scheduler = make_scheduler("ddpm")
    stock = DDPMPipeline(unet=unet, scheduler=scheduler)
    stock.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(7)
    images = stock(batch_size=1, generator=generator, num_inference_steps=4, output_type="np")
    ours = make(unet, "ddpm")(seeds=[7], num_inference_steps=4, output_type="np")
    np.testing.assert_allclose(images.images, ours.images, atol=1e-6)

    make(unet, "ddpm").save_pretrained(tmp_path)
    loaded = DDPMPipeline.from_pretrained(tmp_path, trust_remote_code=True)
    loaded.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(7)
    again = loaded(batch_size=1, generator=generator, num_inference_steps=4, output_type="np")
    np.testing.assert_array_equal(again.images, images.images)


def test_callback_sees_and_may_change_every_step(unet):
    seen = []

    def look(pipe, i, timestep, tensors):
        seen.append((i, int(timestep), tensors["sample"].shape))
        return {"sample": torch.zeros_like(tensors["sample"])} if i == 2 else {}

    pipe = make(unet)
    images = draw(pipe, [0, 1], callback_on_step_end=look)
    assert [i for i, _, _ in seen] == [0, 1, 2]
    assert seen[0][1] == 999
    assert torch.equal(images, torch.full_like(images, 0.5))


def test_output_types(unet):
    pipe = make(unet)
    options = {"seeds": [0, 1], "num_inference_steps": 3}
    tensor = pipe(**options, output_type="pt").images
    array = pipe(**options, output_type="np").images
    np.testing.assert_array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    pictures = pipe(**options).images
    assert [p.mode for p in pictures] == ["L", "L"]
    np.testing.assert_array_equal(
        np.stack([np.asarray(p) for p in pictures]), (tensor[:, 0] * 255).round().byte().numpy()
    )
    assert pipe(**options, return_dict=False)[0][0].size == (8, 8)


def test_generator_instead_of_seeds(unet):
    pipe = make(unet)
    options = {"batch_size": 2, "num_inference_steps": 3, "output_type": "pt"}
    one = pipe(generator=torch.Generator().manual_seed(3), **options).images
    two = pipe(generator=torch.Generator().manual_seed(3), **options).images
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"seeds": [1, 2], "batch_size": 3}, "one per image"),
        ({"seeds": []}, "one per image"),
        ({"batch_size": 0}, "between 1 and 65536"),
        ({"seeds": [1], "generator": torch.Generator()}, "not both"),
        ({"seeds": [1], "output_type": "jpeg"}, "output_type"),
        ({"seeds": [1], "num_inference_steps": 0}, "num_inference_steps"),
    ],
)
def test_bad_calls_are_told(unet, options, word):
    with pytest.raises(UserError, match=word):
        make(unet)(**options)


@pytest.mark.usefixtures("magnified")
def test_grid_keeps_every_image_apart():
    images = to_pil(torch.ones(5, 1, 8, 8))
    grid = np.asarray(image_grid(images, columns=3))
    assert grid.shape[1] % 3 == 0
    assert (grid == 255).mean() == pytest.approx(5 / 6, abs=0.03)
    assert image_grid(to_pil(-torch.ones(1, 3, 16, 16))).mode == "RGB"
