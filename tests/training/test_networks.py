"""The networks that a recipe may choose, and the ordinary one in the training loop."""

from dataclasses import replace

import pytest
import torch
import yaml
from diffusers.models.unets.unet_2d import UNet2DModel

from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.errors import UserError
from spikediff.systems.sddpm.network import SpikingUNet
from spikediff.training import load_recipe, recipe_from, save_recipe
from spikediff.training.checkpoint import load_latest
from spikediff.training.networks import NETWORKS, build_model, choose_network
from spikediff.training.ranges import check_ranges
from spikediff.training.recipe import ModelRecipe
from spikediff.training.trained import load_trained
from spikediff.training.trainer import Trainer


@pytest.fixture
def ordinary(small):
    return replace(small, model=replace(small.model, network="ddpm_unet"))


def test_the_recipe_chooses(small, ordinary):
    assert isinstance(build_model(small, 8, 1), SpikingUNet)
    model = build_model(ordinary, 8, 1)
    assert isinstance(model, UNet2DModel)
    assert list(model.config.block_out_channels) == [8, 16]
    attentive = replace(ordinary, model=replace(ordinary.model, attention=True))
    assert any("attentions" in name for name in build_model(attentive, 8, 1).state_dict())
    scaled = replace(small, model=replace(small.model, temporal_scaling=True))
    assert "head.scaling.p" in build_model(scaled, 8, 1).state_dict()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_first_weight_tells_the_channels(name, small):
    unet = replace(small.model, network=name)
    other = ModelRecipe(network=name, widths=(4, 8))
    integer = ModelRecipe(network=name, block_out_channels=(4, 8))
    if NETWORKS[name].first_weight is None:
        pytest.skip("sees tokens, not images")
    model = integer if name == "integer_unet" else unet if "unet" in name else other
    recipe = replace(small, model=model)
    weights = build_model(recipe, 8, 3).state_dict()
    assert weights[NETWORKS[name].first_weight].shape[1] == 3


@pytest.mark.parametrize(
    ("model", "word"),
    [
        ({"network": "ddpm_unt"}, "no such network; did you mean 'ddpm_unet'"),
        (
            {"network": "ddpm_unet", "spiking_steps": 8},
            "model.spiking_steps = 8: ddpm_unet has none",
        ),
        ({"network": "ddpm_unet", "neuron": "lif"}, "model.neuron"),
        ({"network": "ddpm_unet", "temporal_scaling": True}, "model.temporal_scaling"),
        ({"attention": True}, "model.attention = True: spiking_unet has none; leave it out"),
    ],
)
def test_what_a_network_does_not_have_is_refused_not_ignored(model, word):
    with pytest.raises(UserError, match=word):
        check_ranges(recipe_from({"model": model}, "here"))


FIRST_KEYS = {  # of the recipes of the first version; what came later has a default
    "model": "base_channels channel_mult layers_per_block spiking_steps neuron neuron_options block"
    " dropout readout",
    "sampling": "scheduler num_inference_steps num_images every",
}


def test_recipes_written_before_there_was_a_choice(small, tmp_path):
    save_recipe(small, tmp_path / "recipe.yaml")
    content = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    for part, keys in FIRST_KEYS.items():
        content[part] = {key: content[part][key] for key in keys.split()}
    for key in ("init_from", "first_stage", "loss"):
        del content[key]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    assert load_recipe(tmp_path / "recipe.yaml") == small
    assert choose_network(small.model) is NETWORKS["spiking_unet"]


def test_the_ordinary_network_trains_resumes_and_samples(ordinary, with_steps, tmp_path):
    ordinary = with_steps(ordinary, 3)
    assert Trainer(ordinary, tmp_path / "whole", show_progress=False).train()
    assert Trainer(with_steps(ordinary, 2), tmp_path / "parts", show_progress=False).train()
    unfinished = load_trained(tmp_path / "parts")
    assert Trainer(ordinary, tmp_path / "parts", resume=True, show_progress=False).train()
    whole, parts = (load_latest(tmp_path / name / "checkpoints") for name in ("whole", "parts"))
    assert whole.state == parts.state
    for group, tensors in whole.tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, parts.tensors[group][name]), f"{group}/{name}"
    assert not torch.equal(
        unfinished.unet.conv_in.weight, whole.tensors["average"]["conv_in.weight"]
    )

    pipe = SpikingDiffusionPipeline.from_pretrained(tmp_path / "whole" / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    images = pipe(seeds=[0, 1], num_inference_steps=2, output_type="pt").images
    assert images.shape == (2, 1, 8, 8)
    assert not (tmp_path / "whole" / "temporal_scaling.png").exists()
