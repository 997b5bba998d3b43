"""FSVAE and VAE in the common loop: what they are made of, trained by and sampled with."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor, nn

from spikediff.data import to_model_range
from spikediff.diffusion.objective import Losses, Objective
from spikediff.systems.fsvae.latent import scheduled_sampling_probability
from spikediff.systems.fsvae.network import FSVAE
from spikediff.systems.fsvae.pipeline import VAEPipeline
from spikediff.systems.fsvae.vae import VAE
from spikediff.training.recipe import Recipe

VAE_SETTINGS = ("widths", "latent_channels")
FSVAE_SETTINGS = (*VAE_SETTINGS, "spiking_steps", "neuron", "neuron_options", "group_size")


def made_of(
    build: Callable[..., ModelMixin], settings: tuple[str, ...]
) -> Callable[[Recipe, int, int, Path], ModelMixin]:
    """Return what makes an autoencoder with its settings of the recipe.

    Args:
        build: Makes the network.
        settings: The keys of `ModelRecipe` that it has; "widths" are its `channels`.
    """

    def make(recipe: Recipe, image_size: int, channels: int, _root: Path) -> ModelMixin:
        options: dict[str, Any] = {key: getattr(recipe.model, key) for key in settings}
        if widths := options.pop("widths"):
            options["channels"] = widths
        return build(sample_size=image_size, in_channels=channels, **options)

    return make


make_fsvae = made_of(FSVAE, FSVAE_SETTINGS)
make_vae = made_of(VAE, VAE_SETTINGS)


def make_vae_pipeline(model: ModelMixin, _recipe: Recipe, _root: Path) -> DiffusionPipeline:
    """Return the pipeline that reconstructs images with an autoencoder, and draws new ones."""
    pipe: DiffusionPipeline = VAEPipeline(model)
    return pipe


@dataclass(frozen=True)
class AutoencoderObjective:
    """Reconstruct an image, and keep the posterior near the prior.

    Attributes:
        scheduled_sampling: How likely FSVAE's prior goes on from its own guess, at the first step
            of the training and at the last; None for a network that has none.
    """

    scheduled_sampling: tuple[float, float] | None

    def prepare(self, items: Tensor) -> Tensor:
        """Return images in [-1, 1]."""
        return to_model_range(items)

    def draw(
        self, shape: tuple[int, ...], progress: float, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Draw a seed for every image [B], and repeat the probability of scheduled sampling."""
        first, last = self.scheduled_sampling or (0.0, 0.0)
        probability = scheduled_sampling_probability(progress, first, last)
        seeds = torch.randint(2**62, shape[:1], generator=generator)
        return seeds, torch.full(shape[:1], probability)

    def __call__(self, model: nn.Module, x_0: Tensor, *drawn: Tensor) -> Losses:
        """Return the squared error, and what the loss has beside it: the weighted divergence."""
        seeds, probability = drawn
        generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        told = {"scheduled_sampling": float(probability[0])} if self.scheduled_sampling else {}
        # A tuple, because mixed precision casts outputs, and cannot rebuild one of several fields.
        _, loss, reconstruction, divergence, *_ = model(x_0, generators, return_dict=False, **told)
        terms = {"reconstruction": reconstruction, "divergence": loss - reconstruction}
        return Losses(terms, {"unweighted_divergence": divergence})


def fsvae_objective(recipe: Recipe, _dataset: Any = None) -> Objective:
    """Return FSVAE's loss, with the scheduled sampling of the recipe."""
    return AutoencoderObjective(recipe.loss.scheduled_sampling)


def vae_objective(_recipe: Recipe, _dataset: Any = None) -> Objective:
    """Return the ordinary autoencoder's loss."""
    return AutoencoderObjective(None)
