"""The models that ship: they load by name, and make what they are asked for."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from spikediff.cli import main
from spikediff.data import load_images
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.errors import UserError
from spikediff.evaluation.class_scores import class_agreement
from spikediff.evaluation.sources import quantise
from spikediff.pretrained import PRETRAINED, find_source, pretrained_folder
from spikediff.systems.integer import to_integer
from spikediff.training.recipe import load_recipe
from spikediff.training.trained import load_trained, start_from

MEBIBYTE = 2**20
DEPLOYED = [name for name in PRETRAINED if not name.endswith("-float")]


def test_each_is_there_in_both_forms():
    assert sorted(PRETRAINED) == sorted([*DEPLOYED, *(f"{name}-float" for name in DEPLOYED)])


def test_they_are_small_and_complete():
    files = [path for name in PRETRAINED for path in pretrained_folder(name).rglob("*.*")]
    assert sum(path.stat().st_size for path in files) <= 10 * MEBIBYTE
    for name in PRETRAINED:
        inside = {path.name for path in pretrained_folder(name).iterdir()}
        assert inside == {"README.md", "recipe.yaml", "pipeline"}


@pytest.mark.parametrize("name", PRETRAINED)
def test_sample_works_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = ["--num-images", "2", "--num-inference-steps", "1", "--no-gif", "--output", "out"]
    assert main(["sample", name, *told]) == 0
    size = 8 if name.startswith("digits") else 28
    assert Image.open(tmp_path / "out" / "seed-000001.png").size == (size, size)


def test_a_folder_of_that_name_goes_first(tmp_path, monkeypatch):
    assert find_source(Path("digits")) == pretrained_folder("digits")
    assert find_source(Path("elsewhere")) == Path("elsewhere")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert find_source(Path("digits")) == Path("digits")
    with pytest.raises(UserError, match="did you mean 'digits'"):
        pretrained_folder("digit")


def nearest_class(images, of):
    """Return of uint8 images the classes of the real digits that are nearest to them, one-hot."""
    flat, known = (x.flatten(1).float() for x in (images, of.stack()))
    return torch.nn.functional.one_hot(of.labels[torch.cdist(flat, known).argmin(1)], 10).float()


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_digits_are_what_they_were_asked_to_be(count):
    """Nine of ten at the least, says a judge that saw real digits only."""
    pipe = SpikingDiffusionPipeline.from_pretrained(
        pretrained_folder("digits") / "pipeline", dtype=torch.float32
    )
    pipe.set_progress_bar_config(disable=True)
    labels = torch.arange(count) % 10
    images = pipe(
        seeds=range(count),
        class_labels=labels,
        guidance_scale=2.0,
        num_inference_steps=10,
        output_type="pt",
    ).images
    real, held_out = load_images("digits"), load_images("digits", "test")
    of_real = class_agreement(nearest_class(held_out.stack(), real), held_out.labels)
    assert of_real.rate > 0.9, "the judge must be worth asking"
    agreement = class_agreement(nearest_class(quantise(images, range(count)), real), labels)
    assert agreement.rate >= 0.9, agreement


@pytest.mark.parametrize("name", DEPLOYED)
def test_training_starts_from_one_by_name(name):
    folder = pretrained_folder(f"{name}-float")
    shipped = load_trained(folder).unet
    fresh = type(shipped).from_config(shipped.config)
    start_from(Path(folder.name), fresh, load_recipe(folder / "recipe.yaml"))
    assert torch.equal(fresh.head.weight, shipped.head.weight)


@pytest.mark.parametrize("name", DEPLOYED)
def test_the_float_network_deploys_to_the_one_that_ships(name):
    """Rounding to half precision moves what lies at a threshold: 2 % of the estimate, by energy."""
    form = to_integer(load_trained(pretrained_folder(f"{name}-float")).unet)
    shipped = load_trained(pretrained_folder(name)).unet
    size = shipped.config.sample_size
    x = torch.randn(4, 1, size, size, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(4)
    of_form, of_shipped = (unet(x, 500, labels).sample for unet in (form, shipped))
    assert (of_form - of_shipped).square().mean() < 0.05 * of_shipped.square().mean()
