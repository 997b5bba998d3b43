"""From a recipe to parts: data set, noise schedule, optimizer; `networks.py` has the rest."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from spikediff.data import ImageDataset, load_images, to_model_range
from spikediff.diffusion.objective import (
    DenoisingObjective,
    Objective,
    denoising_loss,
    timestep_weights,
)
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.errors import UserError
from spikediff.systems.fsddim.loss import consistency_weights, synaptic_current_loss
from spikediff.systems.integer.loss import IntegerObjective
from spikediff.training.optimizers import MuonWithAdamW
from spikediff.training.recipe import DataRecipe, DiffusionRecipe, OptimizerRecipe, Recipe


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


def integer_objective(recipe: Recipe, _dataset: Any = None) -> Objective:
    """Return the loss of an integer network as a recipe weighs it.

    Raises:
        UserError: Changes are priced, and the network has classes or the batch cannot be halved.
    """
    loss, schedule = recipe.loss, build_noise_schedule(recipe.diffusion)
    if loss.change_penalty and (recipe.model.num_classes or recipe.data.batch_size % 2):
        raise UserError(
            "loss.change_penalty: pairs the images of a batch; leave out model.num_classes, and "
            "take an even data.batch_size"
        )
    weights = timestep_weights(schedule, loss.min_snr_gamma, loss.p2_gamma)
    return IntegerObjective(schedule, weights, loss.rate_penalty, loss.change_penalty)
