"""How a training step is computed: what is kept, what is computed again, and by which kernels."""

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import nn

from spikediff.events import train_event_driven
from spikediff.layers.recomputation import set_recomputation
from spikediff.native import keep_large_tensors
from spikediff.training.memory import compressed_activations
from spikediff.training.recipe import TrainingRecipe

_log = logging.getLogger("spikediff")


def prepare_computation(model: nn.Module, recipe: TrainingRecipe, device: torch.device) -> None:
    """Set a model up as the recipe says, in place; names and values of its weights stay.

    Args:
        model: The network that is trained.
        recipe: How to train it.
        device: Where.
    """
    steps = cast(Any, model).config.get("spiking_steps")  # an ordinary network has none
    in_float32 = device.type == "cpu" and recipe.mixed_precision == "no"
    if recipe.event_driven and in_float32 and steps:
        _channels_last(model)
        train_event_driven(model, steps)
    if recipe.keep_large_tensors and not keep_large_tensors():
        _log.warning("training.keep_large_tensors: this system's C library has no such switch")
    if recipe.gradient_checkpointing:
        set_recomputation(model)
    if recipe.compile:
        _channels_last(model)
        model.compile(dynamic=False)  # in place: the names of the weights stay


def _channels_last(model: nn.Module) -> None:
    """Lay the kernels out channels-last; torch's own way trips over factors [T, 1, 1, 1, 1]."""
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def keeping_activations(recipe: TrainingRecipe) -> AbstractContextManager[None]:
    """Return the context of a forward pass, which says how activations are kept."""
    compress = recipe.compress_activations and not recipe.compile
    return compressed_activations() if compress else nullcontext()
