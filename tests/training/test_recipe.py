"""Recipes: what ships loads, what is written is read back, and mistakes are told."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DModel

from spikediff.errors import UserError
from spikediff.pretrained import find_recipe, shipped_recipes
from spikediff.systems.fsddim.network import SynapticCurrentUNet
from spikediff.systems.fsvae.network import FSVAE
from spikediff.systems.fsvae.vae import VAE
from spikediff.systems.integer import IntegerSpikingUNet
from spikediff.systems.sddpm.network import SpikingUNet
from spikediff.systems.spiking_diffusion.vq_svae import VQSVAE
from spikediff.training import load_recipe, recipe_from, save_recipe
from spikediff.training.build import Parts, build_model, build_noise_schedule
from spikediff.training.recipe import check_recipe
from spikediff.training.trainer import Trainer

ROOT = Path(__file__).parents[2]


def test_every_shipped_recipe_is_seen():
    files = sorted((ROOT / "recipes").glob("*/*.yaml"))
    assert len(files) >= 3
    assert sorted(shipped_recipes().values()) == files


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipe(name, tmp_path):
    recipe = load_recipe(find_recipe(name))
    check_recipe(recipe)
    own_size, own_channels = size_and_channels(recipe.data.dataset)
    size = recipe.data.image_size or own_size
    if recipe.first_stage is None:  # a second stage is made for the codebook of its first
        with torch.device("meta"):
            model = build_model(Parts(recipe, size, recipe.data.channels or own_channels))
        assert isinstance(model, CLASSES[recipe.model.network])
    else:
        first = shipped(recipe.first_stage)
        assert first.model.network == "vq_svae"
        assert replace(first.data, batch_size=0) == replace(recipe.data, batch_size=0)
    build_noise_schedule(recipe.diffusion)
    save_recipe(recipe, tmp_path / "again.yaml")
    assert load_recipe(tmp_path / "again.yaml") == recipe


def size_and_channels(dataset):
    from spikediff.data import DATASETS, SIGNALS

    if dataset in SIGNALS:
        return SIGNALS[dataset].length, 1
    if dataset not in DATASETS:  # images of your own: chosen from the pictures
        return 32, 3
    return DATASETS[dataset].native_size, DATASETS[dataset].channels


CLASSES = {
    "spiking_unet": SpikingUNet,
    "spiking_unet_1d": SpikingUNet,
    "integer_unet": IntegerSpikingUNet,
    "synaptic_current_unet": SynapticCurrentUNet,
    "ddpm_unet": UNet2DModel,
    "vq_svae": VQSVAE,
    "fsvae": FSVAE,
    "vae": VAE,
}


def shipped(name):
    return load_recipe(find_recipe(name))


@pytest.mark.parametrize("name", [n for n in shipped_recipes() if n.startswith("ddpm/")])
def test_twins_are_compared_like_with_like(name):
    """The ordinary network's recipe is the spiking one's in all but the network."""
    ordinary, spiking = shipped(name), shipped(f"s{name}")
    shared = {
        name: value for name, value in vars(spiking.model).items() if name in vars(ordinary.model)
    }
    assert vars(ordinary.model) == {**vars(ordinary.model), **shared, "network": "ddpm_unet"}
    assert {**vars(ordinary), "name": spiking.name, "model": spiking.model} == vars(spiking)


@pytest.mark.parametrize("name", [n for n in shipped_recipes() if n.startswith("sdm/")])
def test_the_second_stage_fits_the_first(name):
    second, first = shipped(name), shipped(name.replace("sdm/", "sddpm/"))
    assert second.model == replace(first.model, temporal_scaling=True)
    assert (second.data, second.diffusion) == (first.data, first.diffusion)
    assert second.training.steps <= first.training.steps / 5
    assert second.optimizer.lr < first.optimizer.lr


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ({"optimiser": {}}, "unknown key 'optimiser'; did you mean 'optimizer'"),
        ({"optimizer": {"learning_rate": 1}}, "unknown key 'optimizer.learning_rate'; choose from"),
        ({"training": {"step": 1}}, "did you mean 'steps'"),
        ({"optimizer": {"lr": "fast"}}, "optimizer.lr = 'fast' must be of type float"),
        ({"training": {"steps": 1.5}}, "training.steps = 1.5 must be of type int"),
        ({"data": {"horizontal_flip": "yes"}}, "must be of type bool"),
        ({"model": {"channel_mult": "1 2"}}, "model.channel_mult"),
        ({"model": {"channel_mult": [1, "a"]}}, r"model.channel_mult\[1\] = 'a'"),
        ({"optimizer": {"name": "sgd"}}, "choose from adam, adamw"),
        ({"model": 3}, "model must hold keys"),
        ([1], "the file must hold keys"),
        (
            {
                "model": {"network": "unet", "residual_alpha": 1, "codebook_size": 2},
                "loss": {"name": "denoising"},
            },
            "model.network = 'unet': no such network",
        ),
    ],
)
def test_mistakes_are_told(content, word):
    with pytest.raises(UserError, match=word) as caught:
        recipe_from(content, "r.yaml")
    assert str(caught.value).startswith("r.yaml: ")


def test_files_that_are_no_recipe(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        load_recipe(tmp_path / "absent.yaml")
    (tmp_path / "r.yaml").write_text("a: [1\nb: 2")
    with pytest.raises(UserError, match="not a YAML file") as caught:
        load_recipe(tmp_path / "r.yaml")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="did you mean 'sddpm/digits'"):
        find_recipe("sddpm/digit")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("num_inference_steps", 1001, "must be at most 1000"),
        ("num_images", 70_000, "must be positive, and at most 65,536"),
        ("scheduler", "euler", "choose from ddpm"),
    ],
)
def test_grids_that_cannot_be_drawn_are_refused_before_training(key, value, words, small, tmp_path):
    sampling = replace(small.sampling, **{key: value})
    with pytest.raises(UserError, match=f"sampling.{key} = {value!r} {words}"):
        Trainer(replace(small, sampling=sampling), tmp_path / "run")
    assert not (tmp_path / "run").exists()
