"""The pipeline of the autoencoders: seeds, round trips, what an evaluation asks of it."""

import numpy as np
import pytest
import torch

from autoencoders import warm
from spikediff.diffusion.autoencoder_pipeline import VAEPipeline
from spikediff.errors import UserError
from spikediff.evaluation.sources import pipeline_images
from spikediff.systems.fsvae.network import FSVAE
from spikediff.systems.fsvae.vae import VAE


def fsvae():
    model = FSVAE(16, 1, (8, 16), latent_channels=12, group_size=5, spiking_steps=8)
    return warm(model, torch.rand(8, 1, 16, 16) * 2 - 1)


def vae():
    return VAE(16, 3, (8, 16), latent_channels=12).eval()


@pytest.fixture(scope="module", params=[fsvae, vae])
def pipe(request):
    torch.manual_seed(0)
    return VAEPipeline(request.param())


def draw(pipe, seeds, **options):
    return pipe(seeds=seeds, output_type="pt", **options).images


def test_an_image_depends_on_its_seed_alone(pipe):
    together = draw(pipe, range(9))
    assert together.shape == (9, pipe.vae.config.in_channels, 16, 16)
    assert together.min() >= 0
    assert together.max() <= 1
    for batch in ([3], range(1, 8)):
        for seed, image in zip(batch, draw(pipe, batch), strict=True):
            assert torch.equal(image, together[seed]), f"seed {seed} in a batch of {len(batch)}"
    assert not torch.equal(together[0], together[1])


def test_round_trip_is_bit_equal(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    assert not list(tmp_path.rglob("*.bin"))
    again = VAEPipeline.from_pretrained(tmp_path)
    assert torch.equal(draw(again, range(4)), draw(pipe, range(4)))
    for (name, a), b in zip(
        pipe.vae.state_dict().items(), again.vae.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name


def test_steps_are_taken_and_ignored(pipe):
    assert torch.equal(draw(pipe, [0, 1], num_inference_steps=50), draw(pipe, [0, 1]))


def test_an_evaluation_can_draw_from_it(pipe):
    source = pipeline_images(pipe, seed=3, batch_size=2)  # of 50 inference steps, by default
    want = (draw(pipe, [4, 5, 6]) * 255).round().byte()
    assert torch.equal(source.take(1, 3), want)
    assert source.description["scheduler"] is None
    assert source.description["class"] == "VAEPipeline"


def test_output_types(pipe):
    tensor = draw(pipe, [0, 1])
    array = pipe(seeds=[0, 1], output_type="np").images
    np.testing.assert_array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    pictures = pipe(batch_size=2, generator=torch.Generator().manual_seed(0)).images
    assert [picture.size for picture in pictures] == [(16, 16)] * 2
    assert pipe(seeds=[0], return_dict=False)[0][0].size == (16, 16)


def test_generator_instead_of_seeds(pipe):
    one, two = (
        pipe(batch_size=2, generator=torch.Generator().manual_seed(3), output_type="pt").images
        for _ in range(2)
    )
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
        ({"batch_size": 2, "generator": [torch.Generator()]}, "one per image"),
    ],
)
def test_bad_calls_are_told(pipe, options, word):
    with pytest.raises(UserError, match=word):
        pipe(**options)
