"""The networks that a recipe may choose, and what each needs in the common loop."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image

from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.objective import Objective
from spikediff.diffusion.seeds import derived_seed
from spikediff.errors import UserError, suggestion
from spikediff.systems.ddpm.network import ddpm_unet
from spikediff.systems.fsddim.network import SynapticCurrentUNet
from spikediff.systems.fsddim.pipeline import SynapticCurrentPipeline
from spikediff.systems.integer import IntegerSpikingUNet
from spikediff.systems.sddpm.network import SpikingUNet
from spikediff.training import autoencoders, signals, tokens
from spikediff.training.build import (
    build_dataset,
    denoising_objective,
    integer_objective,
    synaptic_current_objective,
)
from spikediff.training.first_stage import token_dataset
from spikediff.training.previews import preview_reconstructions, preview_samples, sampled_by
from spikediff.training.recipe import ModelRecipe, Recipe

MakeModel = Callable[[Recipe, int, int, Path], ModelMixin]
MakeObjective = Callable[[Recipe, Any], Objective]
MakePipeline = Callable[[ModelMixin, Recipe, Path], DiffusionPipeline]
Preview = Callable[[DiffusionPipeline, Recipe, Any], list[Image.Image]]

_SIZES = ("base_channels", "channel_mult", "layers_per_block", "dropout")
_NEURONS = ("spiking_steps", "neuron", "neuron_options")
_SPIKING = (
    *(*_NEURONS, "block", "readout", "temporal_scaling"),
    *("num_classes", "patch_size", "spiking_head", "position_embedding"),
)
_SYNAPTIC = (*_NEURONS, "residual_alpha", "spiking_stem", "spiking_resampling", "num_classes")
_INTEGER = (
    *("patch_size", "block_out_channels", "layers_per_block", "levels", "head_levels"),
    *("num_classes", "activation", "per_channel", "weight_bits"),
)
_ORDINARY = ("attention", "num_classes")
_DENOISING: dict[str, MakeObjective] = {"denoising": denoising_objective}


@dataclass(frozen=True)
class Network:
    """A row of the table.

    Attributes:
        make: Makes the network: `make(recipe, image_size, channels, run_folder)`.
        settings: The keys of `ModelRecipe` that the network has.
        pipeline: Makes the pipeline that samples with it: `pipeline(model, recipe, run_folder)`.
        objectives: The losses that can train it, by the recipe's `loss.name`.
        first_weight: Name of its first convolution's weight [C_out, C_in, ...], which tells the
            channels of the images that a checkpoint was trained on; None where they are always 1.
        part: What the pipeline calls the network that is trained.
        data: Returns the items that it is trained on: `data(recipe, run_folder)`.
        preview: Draws the pictures of the grids in the run folder.
    """

    make: MakeModel
    settings: tuple[str, ...]
    pipeline: MakePipeline
    objectives: Mapping[str, MakeObjective]
    first_weight: str | None
    part: str = "unet"
    data: Callable[[Recipe, Path], Any] = lambda recipe, _root: build_dataset(recipe.data)
    preview: Preview = preview_samples


def _unet(
    build: Callable[..., ModelMixin], settings: tuple[str, ...], has_timestep_table: bool = True
) -> MakeModel:
    """Return what makes a denoiser of images with its settings of the recipe."""

    def make(recipe: Recipe, image_size: int, channels: int, _root: Path) -> ModelMixin:
        options: dict[str, Any] = {key: getattr(recipe.model, key) for key in settings}
        if has_timestep_table:
            options["num_train_timesteps"] = recipe.diffusion.num_train_timesteps
        return build(sample_size=image_size, in_channels=channels, **options)

    return make


NETWORKS: dict[str, Network] = {
    "spiking_unet": Network(
        _unet(SpikingUNet, _SIZES + _SPIKING),
        _SIZES + _SPIKING,
        sampled_by(SpikingDiffusionPipeline),
        _DENOISING,
        "stem.encode.conv.weight",
    ),
    "spiking_unet_1d": Network(
        _unet(partial(SpikingUNet, dimensions=1), _SIZES + _SPIKING),
        _SIZES + _SPIKING,
        signals.make_signal_pipeline,
        {"denoising": signals.signal_objective},
        "stem.encode.conv.weight",
        data=signals.signal_dataset,
        preview=signals.preview_signals,
    ),
    "synaptic_current_unet": Network(
        _unet(SynapticCurrentUNet, _SIZES + _SYNAPTIC),
        _SIZES + _SYNAPTIC,
        sampled_by(SynapticCurrentPipeline),
        _DENOISING | {"synaptic_current": synaptic_current_objective},
        "stem.conv.weight",
    ),
    "integer_unet": Network(
        _unet(IntegerSpikingUNet, _INTEGER),
        _INTEGER,
        sampled_by(SpikingDiffusionPipeline),
        {"denoising": integer_objective},
        "stem.weight",
    ),
    "ddpm_unet": Network(
        _unet(ddpm_unet, (*_SIZES, *_ORDINARY), has_timestep_table=False),
        (*_SIZES, *_ORDINARY),
        sampled_by(SpikingDiffusionPipeline),
        _DENOISING,
        "conv_in.weight",
    ),
    "vq_svae": Network(
        tokens.make_autoencoder,
        tokens.AUTOENCODER_SETTINGS,
        autoencoders.make_vae_pipeline,
        {"vq_svae": tokens.vq_objective},
        tokens.FIRST_WEIGHT,
        part="vae",
        preview=preview_reconstructions,
    ),
    "spiking_image_decoder": Network(
        tokens.make_decoder,
        tokens.DECODER_SETTINGS,
        tokens.make_decoder_pipeline,
        {"absorbing": tokens.token_objective},
        None,
        part="decoder",
        data=token_dataset,
    ),
    "fsvae": Network(
        make=autoencoders.make_fsvae,
        settings=autoencoders.FSVAE_SETTINGS,
        objectives={"autoencoder": autoencoders.fsvae_objective},
        first_weight="encoder.0.synapse.weight",
        pipeline=autoencoders.make_vae_pipeline,
        part="vae",
    ),
    "vae": Network(
        make=autoencoders.make_vae,
        settings=autoencoders.VAE_SETTINGS,
        objectives={"autoencoder": autoencoders.vae_objective},
        first_weight="encoder.0.0.weight",
        pipeline=autoencoders.make_vae_pipeline,
        part="vae",
    ),
}


def choose_network(recipe: ModelRecipe) -> Network:
    """Return the network that a recipe names.

    Args:
        recipe: The recipe's model.

    Raises:
        UserError: There is no such network, or the recipe sets what it does not have.

    Example:
        >>> choose_network(ModelRecipe(network="ddpm_unet", spiking_steps=8))
        Traceback (most recent call last):
        ...
        spikediff.errors.UserError: model.spiking_steps = 8: ddpm_unet has none; leave it out
    """
    if recipe.network not in NETWORKS:
        hint = suggestion(recipe.network, NETWORKS)
        raise UserError(f"model.network = {recipe.network!r}: no such network; {hint}")
    network, default = NETWORKS[recipe.network], ModelRecipe()
    for key in (field.name for field in fields(recipe) if field.name != "network"):
        value = getattr(recipe, key)
        if key not in network.settings and value != getattr(default, key):
            raise UserError(f"model.{key} = {value!r}: {recipe.network} has none; leave it out")
    return network


def build_model(recipe: Recipe, image_size: int, channels: int, root: Path = Path()) -> ModelMixin:
    """Make the network, with weights that the recipe's seed decides.

    Args:
        recipe: The recipe.
        image_size: Side of the images in pixels.
        channels: Channels of the images.
        root: The run folder, where a second stage finds its first.

    Raises:
        UserError: There is no such network, or it does not have what the recipe sets.
    """
    network = choose_network(recipe.model)
    torch.manual_seed(derived_seed(recipe.seed, "weights"))
    return network.make(recipe, image_size, channels, root)


def choose_objective(recipe: Recipe) -> MakeObjective:
    """Return what makes the loss that a recipe names, for its data set.

    Args:
        recipe: The recipe.

    Raises:
        UserError: The network has no such loss.
    """
    objectives = choose_network(recipe.model).objectives
    if recipe.loss.name not in objectives:
        raise UserError(
            f"loss.name = {recipe.loss.name!r}: no loss of {recipe.model.network}; "
            f"{suggestion(recipe.loss.name, objectives)}"
        )
    return objectives[recipe.loss.name]


def build_pipeline(model: ModelMixin, recipe: Recipe, root: Path = Path()) -> DiffusionPipeline:
    """Return the pipeline that samples with a network as the recipe says, without progress bars.

    Args:
        model: The network.
        recipe: The recipe that it was made by.
        root: The run folder, where a second stage finds its first.

    Raises:
        UserError: The recipe's sampler does not fit the network.
    """
    pipe = choose_network(recipe.model).pipeline(model.eval(), recipe, root)
    pipe.set_progress_bar_config(disable=True)
    return pipe
