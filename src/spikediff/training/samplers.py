"""From a recipe to the pipeline that samples with a denoiser."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from spikediff.schedulers import make_scheduler
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
