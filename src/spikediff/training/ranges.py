"""The values that a recipe may have, beyond their types."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from spikediff.diffusion.schedulers import SCHEDULERS
from spikediff.errors import UserError, shown
from spikediff.files.yaml import check_value
from spikediff.training.build import build_dataset
from spikediff.training.networks import build_model, choose_objective
from spikediff.training.recipe import Recipe

# Analytic-DPM needs a trained model to be measured before it samples.
_IN_TRAINING = [name for name in SCHEDULERS if name != "analytic-dpm"]
Rule = tuple[Callable[[Any], bool], str]
_POSITIVE: Rule = (lambda x: x > 0, "must be positive")
_NOT_NEGATIVE: Rule = (lambda x: x >= 0, "must not be negative")
_SHARE: Rule = (lambda x: 0 <= x < 1, "must lie in [0, 1)")
_BETA: Rule = (lambda x: 0 < x < 1, "must lie between 0 and 1")
_LEVELS: Rule = (lambda x: len(x) > 0 and all(w > 0 for w in x), "must be positive, one a level")

_RULES: dict[str, Rule] = {
    "model.base_channels": _POSITIVE,
    "model.layers_per_block": _POSITIVE,
    "model.spiking_steps": _POSITIVE,
    "model.dropout": _SHARE,
    "model.residual_alpha": _POSITIVE,
    "model.num_classes": _NOT_NEGATIVE,
    "model.patch_size": _POSITIVE,
    "model.channel_mult": _LEVELS,
    "model.widths": (lambda x: all(w > 0 for w in x), "must be positive"),
    "model.block_out_channels": _LEVELS,
    "model.codebook_size": _POSITIVE,
    "model.embedding_channels": _POSITIVE,
    "model.latent_channels": _POSITIVE,
    "model.group_size": _POSITIVE,
    "model.levels": _POSITIVE,
    "model.head_levels": _POSITIVE,
    "data.image_size": (lambda x: x is None or x > 0, "must be positive"),
    "data.batch_size": (lambda x: 0 < x <= 65_536, "must be positive, and at most 65,536"),
    "data.workers": _NOT_NEGATIVE,
    "data.signal_range": (
        lambda x: x is None or (len(x) == 2 and x[0] < x[1]),
        "must be two values, the lower one first",
    ),
    "diffusion.num_train_timesteps": _POSITIVE,
    "diffusion.beta_start": _BETA,
    "diffusion.beta_end": _BETA,
    "diffusion.beta_schedule": (
        lambda x: x in ("linear", "scaled_linear", "squaredcos_cap_v2"),
        "choose from linear, scaled_linear, squaredcos_cap_v2",
    ),
    "loss.label_dropout": _SHARE,
    "loss.min_snr_gamma": _NOT_NEGATIVE,
    "loss.p2_gamma": _NOT_NEGATIVE,
    "loss.rate_penalty": _NOT_NEGATIVE,
    "loss.change_penalty": _NOT_NEGATIVE,
    "loss.consistency": _NOT_NEGATIVE,
    "loss.spike_level": _NOT_NEGATIVE,
    "optimizer.lr": _POSITIVE,
    "optimizer.betas": (lambda x: all(0 <= b < 1 for b in x), "must lie in [0, 1)"),
    "optimizer.weight_decay": _NOT_NEGATIVE,
    "optimizer.warmup_steps": _NOT_NEGATIVE,
    "optimizer.decay_steps": _NOT_NEGATIVE,
    "optimizer.max_grad_norm": _NOT_NEGATIVE,
    "optimizer.gradient_accumulation_steps": _POSITIVE,
    "ema.decay": _SHARE,
    "sampling.scheduler": (lambda x: x in _IN_TRAINING, f"choose from {', '.join(_IN_TRAINING)}"),
    "sampling.num_inference_steps": _POSITIVE,
    "sampling.num_images": _POSITIVE,
    "sampling.temperature": _NOT_NEGATIVE,
    "loss.commitment": _NOT_NEGATIVE,
    "loss.scheduled_sampling": (lambda x: all(0 <= p <= 1 for p in x), "must lie in [0, 1]"),
    "sampling.every": _NOT_NEGATIVE,
    "training.steps": _POSITIVE,
    "training.log_every": _POSITIVE,
    "training.checkpoint_every": _POSITIVE,
    "training.keep_last": _POSITIVE,
}


def check_ranges(recipe: Recipe) -> None:
    """Refuse values that no run could use.

    Args:
        recipe: The resolved recipe.

    Raises:
        UserError: A value lies outside its range, or is of another network; the message names it.

    Example:
        >>> from spikediff.training import recipe_from
        >>> check_ranges(recipe_from({"training": {"steps": -3}}, "here"))
        Traceback (most recent call last):
        ...
        spikediff.errors.UserError: training.steps = -3 must be positive
    """
    for name, values in asdict(recipe).items():
        check_value(values, name)
    if Path(recipe.name).name != recipe.name or recipe.name in ("", ".."):
        raise UserError(f"name = {shown(recipe.name)} must be the name of a folder, without a path")
    for name, (allowed, words) in _RULES.items():
        part, key = name.split(".")
        value = getattr(getattr(recipe, part), key)
        if not allowed(value):
            raise UserError(f"{name} = {shown(value)} {words}")
    choose_objective(recipe)
    if recipe.sampling.num_inference_steps > recipe.diffusion.num_train_timesteps:
        raise UserError(
            f"sampling.num_inference_steps = {recipe.sampling.num_inference_steps} must not exceed "
            f"diffusion.num_train_timesteps = {recipe.diffusion.num_train_timesteps}"
        )


def check_both_stages(first: Recipe, second: Recipe) -> None:
    """Refuse a second stage that could not sample from the tokens of the first.

    Args:
        first: Recipe of the autoencoder.
        second: Recipe of the network that generates its tokens.

    Raises:
        UserError: A value lies outside its range, or there are fewer tokens than steps to sample.
    """
    check_ranges(first)
    check_ranges(second)
    images = build_dataset(first.data)
    with torch.device("meta"):
        autoencoder = build_model(first, images.image_size, images.channels)
    height, width = autoencoder.latent_size
    steps = second.sampling.num_inference_steps
    if steps > height * width:
        raise UserError(
            f"sampling.num_inference_steps = {steps} must be at most {height * width}, the tokens "
            f"of an image of {images.image_size} pixels"
        )
