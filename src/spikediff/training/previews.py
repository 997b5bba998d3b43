"""The pictures that a run leaves of what its network makes."""

from typing import Any

import torch
from PIL import Image

from spikediff.data import to_model_range
from spikediff.pipelines import classes_in_turn, to_pil
from spikediff.training.recipe import Recipe


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
