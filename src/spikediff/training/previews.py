"""The pictures that a run leaves of what its network makes."""

from typing import Any

import torch
from PIL import Image

from spikediff.data import to_model_range
from spikediff.pipelines import to_pil
from spikediff.training.recipe import Recipe


def preview_samples(pipe: Any, recipe: Recipe, _dataset: Any) -> list[Image.Image]:
    """Return samples of the seeds 0, 1, 2, ...

    Args:
        pipe: The pipeline.
        recipe: The recipe; it says how many, and in how many steps.
    """
    sampling = recipe.sampling
    images: list[Image.Image] = pipe(
        seeds=range(sampling.num_images), num_inference_steps=sampling.num_inference_steps
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
