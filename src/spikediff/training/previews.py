"""From a recipe to the pipeline that samples with a denoiser.

The pictures that a run leaves of what its network makes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image

from spikediff.data import to_model_range
from spikediff.diffusion.classes import classes_in_turn
from spikediff.diffusion.outputs import to_pil
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.training.build import build_noise_schedule
from spikediff.training.recipe import Recipe


def sampled_by(
    pipeline: Callable[..., Any],
) -> Callable[[ModelMixin, Recipe, Path], DiffusionPipeline]:
    """Return what makes a pipeline of a denoiser and the sampler that the recipe names.

    Args:
        pipeline: Makes the pipeline of a denoiser and a scheduler.
    """

    def make(model: ModelMixin, recipe: Recipe, _root: Path) -> DiffusionPipeline:
        schedule = build_noise_schedule(recipe.diffusion)
        scheduler = make_scheduler(recipe.sampling.scheduler, schedule.config)
        made: DiffusionPipeline = pipeline(model, scheduler)
        return made

    return make


def preview_samples(pipe: Any, recipe: Recipe, _dataset: Any) -> list[Image.Image]:
    """Return samples of the seeds 0, 1, 2, ..., of the classes in turn where there are any.

    Args:
        pipe: The pipeline.
        recipe: The recipe; it says how many, and in how many steps.
    """
    sampling, seeds = recipe.sampling, range(recipe.sampling.num_images)
    images: list[Image.Image] = pipe(
        seeds=seeds,
        num_inference_steps=sampling.num_inference_steps,
        **classes_in_turn(pipe, seeds),
    ).images
    return images


def preview_reconstructions(pipe: Any, recipe: Recipe, dataset: Any) -> list[Image.Image]:
    """Return the first training images, each followed by what the autoencoder makes of it.

    Args:
        pipe: A pipeline with `reconstruct`.
        recipe: The recipe; it says how many pictures there are in all.
        dataset: The training images.
    """
    count = min(max(1, recipe.sampling.num_images // 2), len(dataset))
    real = to_model_range(torch.stack([dataset[i][0] for i in range(count)])).to(pipe.device)
    pairs = torch.stack([real, pipe.reconstruct(real)], dim=1).flatten(0, 1)  # [2N, C, H, W]
    return to_pil(pairs)
