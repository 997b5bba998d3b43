"""What training makes small: the contract of a loss in the common loop, and the denoising ones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from spikediff.data import to_model_range
from spikediff.training.build import build_noise_schedule
from spikediff.training.loss import denoising_loss, draw_noise, timestep_weights
from spikediff.training.recipe import Recipe
from spikediff.training.synaptic_current_loss import consistency_weights, synaptic_current_loss


@dataclass(frozen=True)
class Losses:
    """What one part of a batch says.

    Attributes:
        terms: Terms of the loss by name, already weighted, 0-dim; training makes their sum small.
        watched: Further numbers for the curve, 0-dim.
    """

    terms: Mapping[str, Tensor]
    watched: Mapping[str, Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """How a network is trained; it knows neither optimizer nor processes."""

    def prepare(self, items: Tensor) -> Tensor:
        """Return items of the data set, as they are stored, as the loss sees them [B, ...]."""

    def draw(
        self, shape: tuple[int, ...], progress: float, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Draw all that is random for a whole batch, so that no process count changes it.

        Args:
            shape: Shape of the batch over all processes and parts [B, ...].
            progress: Share of the training that is done, from 0 to 1.
            generator: The source.

        Returns:
            Tensors whose first axis is B, which are cut along it as the items are.
        """

    def __call__(self, model: nn.Module, x_0: Tensor, *drawn: Tensor) -> Losses:
        """Return the losses of a part of the batch, with what was drawn for it."""


@dataclass(frozen=True)
class DenoisingObjective:
    """Noise an image, and ask the network what was done.

    Attributes:
        loss: `loss(model, schedule, x_0, timestep, eps)` -> terms by name.
        schedule: The scheduler that noises the images.
        to_range: Turns items as they are stored into what the network sees, about [-1, 1].
    """

    loss: Callable[..., Mapping[str, Tensor]]
    schedule: Any
    to_range: Callable[[Tensor], Tensor] = to_model_range

    def prepare(self, items: Tensor) -> Tensor:
        """Return images in [-1, 1], or signals in the range that the recipe names."""
        return self.to_range(items)

    def draw(
        self, shape: tuple[int, ...], progress: float, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Draw timesteps [B] and noise [B, C, H, W]."""
        return draw_noise(shape, self.schedule.config.num_train_timesteps, generator)

    def __call__(self, model: nn.Module, x_0: Tensor, *drawn: Tensor) -> Losses:
        """Return the terms for timesteps and noise."""
        return Losses(self.loss(model, self.schedule, x_0, *drawn))


def denoising_objective(
    recipe: Recipe, _dataset: Any = None, to_range: Callable[[Tensor], Tensor] = to_model_range
) -> Objective:
    """Return the denoising loss of a recipe."""
    loss, schedule = recipe.loss, build_noise_schedule(recipe.diffusion)
    weights = timestep_weights(schedule, loss.min_snr_gamma, loss.p2_gamma)
    return DenoisingObjective(partial(denoising_loss, weights=weights), schedule, to_range)


def synaptic_current_objective(recipe: Recipe, _dataset: Any = None) -> Objective:
    """Return synaptic current learning as a recipe weighs it."""
    loss, schedule = recipe.loss, build_noise_schedule(recipe.diffusion)
    compute = partial(
        synaptic_current_loss,
        spiking_steps=recipe.model.spiking_steps,
        consistency=consistency_weights(schedule, loss.consistency, loss.consistency_weights),
        spike_level=loss.spike_level,
    )
    return DenoisingObjective(compute, schedule)
