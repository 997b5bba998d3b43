"""The networks that a recipe may choose: spiking ones, and the ordinary ones beside them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from spikediff.errors import UserError, suggestion
from spikediff.models import SpikingUNet, SynapticCurrentUNet, ddpm_unet
from spikediff.pipelines import SpikingDiffusionPipeline, SynapticCurrentPipeline
from spikediff.schedulers import make_scheduler
from spikediff.training.build import build_noise_schedule
from spikediff.training.objective import (
    Objective,
    denoising_objective,
    synaptic_current_objective,
)
from spikediff.training.recipe import ModelRecipe, Recipe
from spikediff.training.seeds import derived_seed

MakeObjective = Callable[[Recipe], Objective]
MakePipeline = Callable[[ModelMixin, Recipe], DiffusionPipeline]

_SIZES = ("base_channels", "channel_mult", "layers_per_block", "dropout")
_NEURONS = ("spiking_steps", "neuron", "neuron_options")
_SPIKING = (*_NEURONS, "block", "readout", "temporal_scaling")
_SYNAPTIC = (*_NEURONS, "residual_alpha", "spiking_stem", "spiking_resampling")


@dataclass(frozen=True)
class Network:
    """A row of the table.

    Attributes:
        build: Makes the network of the settings, and of the options that the row adds.
        settings: The keys of `ModelRecipe` that the network has.
        first_weight: Name of its first convolution's weight [C_out, C_in, 3, 3], which tells the
            channels of the images that a checkpoint was trained on.
        has_timestep_table: Whether it must know how many training timesteps there are.
        pipeline: Makes the pipeline that samples with a network of the recipe.
        objectives: The losses that can train it, by the recipe's `loss.name`.
    """

    build: Callable[..., ModelMixin]
    settings: tuple[str, ...]
    first_weight: str
    has_timestep_table: bool
    pipeline: MakePipeline
    objectives: Mapping[str, MakeObjective]

    def make(self, recipe: Recipe, image_size: int, channels: int) -> ModelMixin:
        """Make the network for images [B, channels, image_size, image_size]."""
        options: dict[str, Any] = {key: getattr(recipe.model, key) for key in self.settings}
        if self.has_timestep_table:
            options["num_train_timesteps"] = recipe.diffusion.num_train_timesteps
        return self.build(sample_size=image_size, in_channels=channels, **options)


def _sampled_by(pipeline: Callable[..., Any]) -> MakePipeline:
    """Return what makes a pipeline of a denoiser and the sampler that the recipe names."""

    def make(model: ModelMixin, recipe: Recipe) -> DiffusionPipeline:
        schedule = build_noise_schedule(recipe.diffusion)
        scheduler = make_scheduler(recipe.sampling.scheduler, schedule.config)
        made: DiffusionPipeline = pipeline(model, scheduler)
        return made

    return make


_DENOISING: dict[str, MakeObjective] = {"denoising": denoising_objective}
_OF_IMAGES = _sampled_by(SpikingDiffusionPipeline)

NETWORKS: dict[str, Network] = {
    "spiking_unet": Network(
        SpikingUNet, _SIZES + _SPIKING, "stem.encode.conv.weight", True, _OF_IMAGES, _DENOISING
    ),
    "synaptic_current_unet": Network(
        SynapticCurrentUNet,
        _SIZES + _SYNAPTIC,
        "stem.conv.weight",
        True,
        _sampled_by(SynapticCurrentPipeline),
        _DENOISING | {"synaptic_current": synaptic_current_objective},
    ),
    "ddpm_unet": Network(
        ddpm_unet, (*_SIZES, "attention"), "conv_in.weight", False, _OF_IMAGES, _DENOISING
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


def build_model(recipe: Recipe, image_size: int, channels: int) -> ModelMixin:
    """Make the network, with weights that the recipe's seed decides.

    Args:
        recipe: The recipe.
        image_size: Side of the images in pixels.
        channels: Channels of the images.

    Raises:
        UserError: There is no such network, or it does not have what the recipe sets.
    """
    network = choose_network(recipe.model)
    torch.manual_seed(derived_seed(recipe.seed, "weights"))
    return network.make(recipe, image_size, channels)


def build_objective(recipe: Recipe) -> Objective:
    """Return the loss that a recipe names.

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
    return objectives[recipe.loss.name](recipe)


def build_pipeline(model: ModelMixin, recipe: Recipe) -> DiffusionPipeline:
    """Return the pipeline that samples with a network as the recipe says, without progress bars.

    Args:
        model: The network.
        recipe: The recipe that it was made by.

    Raises:
        UserError: The recipe's sampler does not fit the network.
    """
    pipe = choose_network(recipe.model).pipeline(model.eval(), recipe)
    pipe.set_progress_bar_config(disable=True)
    return pipe
