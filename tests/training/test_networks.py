"""The networks that a recipe may choose, and the ordinary one in the training loop."""

from dataclasses import replace
from inspect import signature

import pytest
import torch
import yaml
from diffusers.models.unets.unet_2d import UNet2DModel

from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.errors import UserError
from spikediff.systems import SYSTEMS, find_trainable
from spikediff.systems.sddpm.network import SpikingUNet
from spikediff.training import load_recipe, recipe_from, save_recipe
from spikediff.training.build import Parts, build_model, build_objective
from spikediff.training.checkpoint import load_latest
from spikediff.training.recipe import load_run_recipe, loss_section, model_section
from spikediff.training.trained import load_trained
from spikediff.training.trainer import Trainer


@pytest.fixture
def ordinary(small, of_network):
    return of_network(small, "ddpm_unet")


def made(recipe):
    return build_model(Parts(recipe, 8, 1))


def test_the_recipe_chooses(small, ordinary, of_network):
    assert isinstance(made(small), SpikingUNet)
    two_levels = replace(ordinary, model=replace(ordinary.model, channel_mult=(1, 2)))
    model = made(two_levels)
    assert isinstance(model, UNet2DModel)
    assert list(model.config.block_out_channels) == [8, 16]
    attentive = of_network(small, "ddpm_unet", attention=True)
    assert any("attentions" in name for name in made(attentive).state_dict())
    scaled = replace(small, model=replace(small.model, temporal_scaling=True))
    assert "head.scaling.p" in made(scaled).state_dict()


NETWORKS = [network for networks in SYSTEMS.values() for network in networks]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_sections_are_the_arguments_of_network_and_loss(name):
    """No second list: what a constructor takes, its recipe takes, with its default."""
    row = find_trainable(name)
    taken = signature(row.network).parameters
    section = model_section(name)()
    for argument in set(taken) - set(row.from_run) - set(row.fixed):
        value = getattr(section, row.keys.get(argument, argument))
        assert value == (taken[argument].default or value)
    for loss, objective in row.objectives.items():
        section = loss_section(name, loss)()
        for argument, taken in list(signature(objective).parameters.items())[1:]:
            assert getattr(section, argument) == taken.default


@pytest.mark.parametrize(
    ("model", "word"),
    [
        ({"network": "ddpm_unt"}, "no such network; did you mean 'ddpm_unet'"),
        ({"network": "ddpm_unet", "spiking_steps": 8}, "unknown key 'model.spiking_steps'"),
        ({"network": "ddpm_unet", "neuron": "lif"}, "unknown key 'model.neuron'"),
        ({"network": "ddpm_unet", "temporal_scaling": False}, "model.temporal_scaling"),
        ({"attention": False}, "here: unknown key 'model.attention'"),
        ({"spiking_step": 4}, "did you mean 'spiking_steps'"),
        ({"sample_size": 8}, "unknown key 'model.sample_size'"),
    ],
)
def test_what_a_network_does_not_have_is_refused_not_ignored(model, word):
    with pytest.raises(UserError, match=word):
        recipe_from({"model": model}, "here")


@pytest.mark.parametrize(
    ("loss", "word"),
    [
        ({"name": "vq_svae"}, "here: loss.name = 'vq_svae': no loss of spiking_unet"),
        ({"commitment": 0.5}, "unknown key 'loss.commitment'"),
        ({"min_snr": 5}, "did you mean 'min_snr_gamma'"),
    ],
)
def test_what_a_loss_does_not_have_is_refused(loss, word):
    with pytest.raises(UserError, match=word):
        recipe_from({"loss": loss}, "here")


WRONG = {
    "spiking_unet": {
        "base_channels": 0,
        "layers_per_block": -1,
        "spiking_steps": 0,
        "dropout": 1.0,
        "num_classes": -1,
        "patch_size": 0,
        "channel_mult": (),
        "neuron": "liff",
        "block": "post",
        "readout": "first",
    },
    "synaptic_current_unet": {"residual_alpha": 0.0, "spiking_steps": 0, "channel_mult": (0,)},
    "integer_unet": {
        "block_out_channels": (),
        "levels": 0,
        "head_levels": 0,
        "layers_per_block": 0,
        "num_classes": -1,
        "activation": "relu",
        "weight_bits": 5,
        "patch_size": 0,
    },
    "ddpm_unet": {"base_channels": 0, "channel_mult": (), "layers_per_block": 0, "dropout": -1.0},
    "vq_svae": {
        "widths": (0,),
        "codebook_size": 0,
        "embedding_channels": 0,
        "spiking_steps": 0,
        "feature": "best",
        "straight_through": "none",
        "codebook": "none",
    },
    "fsvae": {"widths": (-4,), "latent_channels": 0, "group_size": 0, "spiking_steps": 0},
    "vae": {"widths": (0, 4), "latent_channels": -1},
}


@pytest.mark.parametrize(("name", "key"), [(n, key) for n, keys in WRONG.items() for key in keys])
def test_a_network_refuses_values_that_it_cannot_have(name, key):
    recipe = recipe_from({"model": {"network": name, key: WRONG[name][key]}}, "here")
    with pytest.raises(UserError) as caught, torch.device("meta"):
        build_model(Parts(recipe, 16, 1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("network", "loss"),
    [
        ("spiking_unet", {"min_snr_gamma": -1.0}),
        ("spiking_unet", {"min_snr_gamma": 1e308}),
        ("integer_unet", {"rate_penalty": -0.1}),
        ("integer_unet", {"p2_gamma": -0.1}),
        ("synaptic_current_unet", {"name": "synaptic_current", "consistency": -1.0}),
        ("fsvae", {"scheduled_sampling": [0.1, 1.5]}),
    ],
)
def test_a_loss_refuses_weights_that_make_no_sense(network, loss):
    recipe = recipe_from({"model": {"network": network}, "loss": loss}, "here")
    with pytest.raises(UserError, match="loss"):
        build_objective(Parts(recipe, 8, 1))


def test_a_run_of_version_0_1_kept_the_options_of_all_networks(small, ordinary, tmp_path):
    save_recipe(ordinary, tmp_path / "recipe.yaml")
    content = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    content["model"] |= {"spiking_steps": 4, "neuron": "if", "widths": [], "levels": 4}
    content["model"] |= {"residual_alpha": 1.0, "codebook_size": 128}
    content["loss"] |= {"consistency": 1.0, "weighting": "reweighted"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    again = load_run_recipe(tmp_path)
    assert vars(again.model) == vars(ordinary.model)
    assert vars(again.loss) == vars(ordinary.loss)
    assert load_recipe(tmp_path / "recipe.yaml") == again  # given as a file, to go on with the run
    content["model"]["spiking_stepz"] = 4
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=r"unknown key 'model\.spiking_stepz'"):
        load_run_recipe(tmp_path)


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
