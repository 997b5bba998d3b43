"""What training makes small: the losses that a recipe may choose."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from spikediff.training.loss import denoising_loss
from spikediff.training.recipe import Recipe
from spikediff.training.synaptic_current_loss import consistency_weights, synaptic_current_loss

# (model, x_0, timestep, eps) -> terms of the loss by name, already weighted
Objective = Callable[[nn.Module, Tensor, Tensor, Tensor], Mapping[str, Tensor]]


def _denoising(_recipe: Recipe, schedule: Any) -> Objective:
    return lambda model, *noised: denoising_loss(model, schedule, *noised)


def _synaptic_current(recipe: Recipe, schedule: Any) -> Objective:
    loss = recipe.loss
    compute = partial(
        synaptic_current_loss,
        spiking_steps=recipe.model.spiking_steps,
        consistency=consistency_weights(schedule, loss.consistency, loss.consistency_weights),
        spike_level=loss.spike_level,
    )
    return lambda model, *noised: compute(model, schedule, *noised)


OBJECTIVES: dict[str, Callable[[Recipe, Any], Objective]] = {
    "denoising": _denoising,
    "synaptic_current": _synaptic_current,
}


def build_objective(recipe: Recipe, noise_schedule: Any) -> Objective:
    """Return the loss that a recipe names; `check_ranges` has refused unknown names.

    Args:
        recipe: The recipe.
        noise_schedule: The scheduler that noises the training images.
    """
    return OBJECTIVES[recipe.loss.name](recipe, noise_schedule)
