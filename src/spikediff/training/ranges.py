"""The values that a recipe may have, beyond their types."""

from collections.abc import Callable
from typing import Any

from spikediff.errors import UserError
from spikediff.schedulers import SCHEDULERS
from spikediff.training.networks import choose_objective
from spikediff.training.recipe import Recipe

# Analytic-DPM needs a trained model to be measured before it samples.
_IN_TRAINING = [name for name in SCHEDULERS if name != "analytic-dpm"]
Rule = tuple[Callable[[Any], bool], str]
_POSITIVE: Rule = (lambda x: x > 0, "must be positive")
_NOT_NEGATIVE: Rule = (lambda x: x >= 0, "must not be negative")
_SHARE: Rule = (lambda x: 0 <= x < 1, "must lie in [0, 1)")
_BETA: Rule = (lambda x: 0 < x < 1, "must lie between 0 and 1")

_RULES: dict[str, Rule] = {
    "model.base_channels": _POSITIVE,
    "model.layers_per_block": _POSITIVE,
    "model.spiking_steps": _POSITIVE,
    "model.dropout": _SHARE,
    "model.residual_alpha": _POSITIVE,
    "model.num_classes": _NOT_NEGATIVE,
    "model.patch_size": _POSITIVE,
    "data.batch_size": _POSITIVE,
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
    for name, (allowed, words) in _RULES.items():
        part, key = name.split(".")
        value = getattr(getattr(recipe, part), key)
        if not allowed(value):
            raise UserError(f"{name} = {value!r} {words}")
    choose_objective(recipe)
    if recipe.sampling.num_inference_steps > recipe.diffusion.num_train_timesteps:
        raise UserError(
            f"sampling.num_inference_steps = {recipe.sampling.num_inference_steps} must not exceed "
            f"diffusion.num_train_timesteps = {recipe.diffusion.num_train_timesteps}"
        )
