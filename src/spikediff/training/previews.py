"""Pictures of a network's output, for the run folder."""

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from spikediff.data import to_model_range
from spikediff.diffusion.classes import classes_in_turn
from spikediff.diffusion.outputs import plot_signals, to_pil
from spikediff.training.recipe import Recipe


def preview_samples(pipe: Any, recipe: Recipe, _dataset: Any) -> list[Image.Image]:
    """Return samples of the seeds 0, 1, 2, ...; conditional networks cycle through classes."""
    seeds, calls = range(recipe.sampling.num_images), recipe.sampling.num_inference_steps
    options = classes_in_turn(pipe, seeds)
    images: list[Image.Image] = pipe(seeds=seeds, num_inference_steps=calls, **options).images
    return images


def preview_reconstructions(pipe: Any, recipe: Recipe, dataset: Any) -> list[Image.Image]:
    """Return the first training images, each followed by its reconstruction."""
    count = min(max(1, recipe.sampling.num_images // 2), len(dataset))
    real = to_model_range(torch.stack([dataset[i][0] for i in range(count)])).to(pipe.device)
    pairs = torch.stack([real, pipe.reconstruct(real)], dim=1).flatten(0, 1)  # [2N, C, H, W]
    return to_pil(pairs)


def preview_signals(pipe: Any, recipe: Recipe, dataset: Any) -> list[Image.Image]:
    """Return a plot of samples of the seeds 0, 1, 2, ... beside windows of the recording."""
    count, calls = recipe.sampling.num_images, recipe.sampling.num_inference_steps
    made = pipe(seeds=range(count), num_inference_steps=calls, output_type="pt").images
    places = torch.linspace(0, len(dataset) - 1, count).long().tolist()
    real = torch.stack([dataset[i][0] for i in places])
    return [plot_signals({"generated": made.cpu(), "recorded": real})]


PREVIEWS: dict[str, Callable[[Any, Recipe, Any], list[Image.Image]]] = {
    "samples": preview_samples,
    "reconstructions": preview_reconstructions,
    "signals": preview_signals,
}
"""By `Trainable.preview`: `preview(pipeline, recipe, items)`."""
