"""The networks that a recipe may choose: spiking ones, and the ordinary ones beside them."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from diffusers.models.modeling_utils import ModelMixin

from spikediff.errors import UserError, suggestion
from spikediff.models import SpikingUNet, SynapticCurrentUNet, ddpm_unet
from spikediff.pipelines import SpikingDiffusionPipeline, SynapticCurrentPipeline
from spikediff.training.recipe import ModelRecipe, Recipe

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
        pipeline: Class of the pipeline that samples with it.
        losses: The losses that can train it.
    """

    build: Callable[..., ModelMixin]
    settings: tuple[str, ...]
    first_weight: str
    has_timestep_table: bool
    pipeline: Callable[..., Any] = SpikingDiffusionPipeline
    losses: tuple[str, ...] = ("denoising",)

    def make(self, recipe: Recipe, image_size: int, channels: int) -> ModelMixin:
        """Make the network for images [B, channels, image_size, image_size]."""
        options: dict[str, Any] = {key: getattr(recipe.model, key) for key in self.settings}
        if self.has_timestep_table:
            options["num_train_timesteps"] = recipe.diffusion.num_train_timesteps
        return self.build(sample_size=image_size, in_channels=channels, **options)


NETWORKS: dict[str, Network] = {
    "spiking_unet": Network(SpikingUNet, _SIZES + _SPIKING, "stem.encode.conv.weight", True),
    "synaptic_current_unet": Network(
        SynapticCurrentUNet,
        _SIZES + _SYNAPTIC,
        "stem.conv.weight",
        True,
        SynapticCurrentPipeline,
        ("synaptic_current", "denoising"),
    ),
    "ddpm_unet": Network(ddpm_unet, (*_SIZES, "attention"), "conv_in.weight", False),
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
