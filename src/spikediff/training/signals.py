"""Signals in the common loop: what a network of them is trained on, and sampled with."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image

from spikediff.data import SignalDataset, change_range, load_signals
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.objective import Objective
from spikediff.diffusion.outputs import plot_signals
from spikediff.errors import UserError
from spikediff.training.build import denoising_objective
from spikediff.training.previews import sampled_by
from spikediff.training.recipe import DataRecipe, Recipe

_OF_IMAGES = ("channels", "resize_filter", "horizontal_flip", "hold_out")


def signal_dataset(recipe: Recipe, _root: Path) -> SignalDataset:
    """Return the windows of the recording that a recipe names.

    Args:
        recipe: The recipe.

    Raises:
        UserError: There is no such recording, the recipe sets what only images have, or it does
            not say which values the network sees as -1 and 1.
    """
    data = recipe.data
    for key in _OF_IMAGES:
        if (value := getattr(data, key)) != getattr(DataRecipe(), key):
            raise UserError(f"data.{key} = {value!r}: signals have none; leave it out")
    windows = load_signals(data.dataset, length=data.image_size, data_dir=data.data_dir)
    if data.signal_range is None:
        low, high = (float(value) for value in windows.recording.aminmax())
        raise UserError(
            f"data.signal_range: say which values the network sees as -1 and 1; {data.dataset} "
            f"runs from {low:.4g} to {high:.4g}"
        )
    return windows


def signal_objective(recipe: Recipe, _dataset: Any = None) -> Objective:
    """Return the denoising loss for signals, in the recipe's range."""
    assert recipe.data.signal_range is not None  # signal_dataset asks for it
    to_range = partial(change_range, old=recipe.data.signal_range)
    return denoising_objective(recipe, to_range=to_range)


def make_signal_pipeline(model: ModelMixin, recipe: Recipe, root: Path) -> DiffusionPipeline:
    """Return the pipeline that samples signals, in the unit of the recording."""
    make = partial(SpikingDiffusionPipeline, signal_range=recipe.data.signal_range)
    return sampled_by(make)(model, recipe, root)


def preview_signals(pipe: Any, recipe: Recipe, dataset: Any) -> list[Image.Image]:
    """Return one plot: samples of the seeds 0, 1, 2, ... beside windows of the recording.

    Args:
        pipe: The pipeline.
        recipe: The recipe; it says how many, and in how many steps.
        dataset: The training windows.
    """
    sampling = recipe.sampling
    made = pipe(
        seeds=range(sampling.num_images),
        num_inference_steps=sampling.num_inference_steps,
        output_type="pt",
    ).images
    places = torch.linspace(0, len(dataset) - 1, sampling.num_images).long().tolist()
    real = torch.stack([dataset[i][0] for i in places])
    return [plot_signals({"generated": made.cpu(), "recorded": real})]
