"""From a recipe to parts: data set, noise schedule, optimizer; `networks.py` has the rest."""

from collections.abc import Callable
from typing import Any

import torch

from spikediff.data import ImageDataset, load_images
from spikediff.errors import UserError
from spikediff.schedulers import make_scheduler
from spikediff.training.muon import MuonWithAdamW
from spikediff.training.recipe import DataRecipe, DiffusionRecipe, OptimizerRecipe


def build_dataset(recipe: DataRecipe, split: str = "train") -> ImageDataset:
    """Read the images that a recipe names.

    Raises:
        UserError: There are no such images, or the recipe sets what only signals have.
    """
    if recipe.signal_range is not None:
        raise UserError(
            "data.signal_range: images have none; leave it out, or train a network of signals "
            "(model.network: spiking_unet_1d)"
        )
    return load_images(
        recipe.dataset,
        split,
        image_size=recipe.image_size,
        channels=recipe.channels,
        data_dir=recipe.data_dir,
        resize_filter=recipe.resize_filter,
        held_out=False if recipe.hold_out and split == "train" else None,
    )


def build_noise_schedule(recipe: DiffusionRecipe) -> Any:
    """Return the DDPM scheduler that noises the training images."""
    # fixed_large is the variance that the SDDPM tables were made with.
    return make_scheduler("ddpm", {**vars(recipe), "variance_type": "fixed_large"})


def build_optimizer(recipe: OptimizerRecipe, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer over the parameters that learn."""
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "muon": MuonWithAdamW,
    }
    return kinds[recipe.name](
        [p for p in model.parameters() if p.requires_grad],
        lr=recipe.lr,
        betas=recipe.betas,
        weight_decay=recipe.weight_decay,
        fused=recipe.fused or None,
    )


def build_lr_schedule(
    recipe: OptimizerRecipe, optimizer: torch.optim.Optimizer, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Return the warm-up and what follows it."""
    from diffusers.optimization import get_scheduler

    if recipe.schedule == "warmup_stable_decay":
        return torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min(
                1.0,
                (step + 1) / (recipe.warmup_steps + 1),
                (steps - step) / (recipe.decay_steps + 1),
            ),
        )
    name = "constant_with_warmup" if recipe.schedule == "constant" else recipe.schedule
    schedule: torch.optim.lr_scheduler.LambdaLR = get_scheduler(
        name, optimizer, num_warmup_steps=recipe.warmup_steps, num_training_steps=steps
    )
    return schedule
