"""Classes in the training loop: labels are dropped now and then, and shown to the network."""

from functools import partial
from typing import Any

from torch import Tensor

from spikediff.errors import UserError
from spikediff.training.recipe import Recipe


def check_classes(recipe: Recipe, dataset: Any) -> None:
    """Refuse a network whose classes are not those of the data set.

    Args:
        recipe: The recipe.
        dataset: The items that it trains on, with `num_classes`.

    Raises:
        UserError: The numbers of classes differ.
    """
    wanted = recipe.model.num_classes
    if wanted and wanted != dataset.num_classes:
        raise UserError(
            f"model.num_classes = {wanted}: the data set {dataset.name} has "
            f"{dataset.num_classes or 'no'} classes"
        )


def drop_labels(labels: Tensor, uniforms: Tensor, recipe: Recipe) -> Tensor:
    """Return labels [B], some replaced by K, "no class".

    Args:
        labels: Labels, 0 to K - 1.
        uniforms: A number between 0 and 1 for each [B], drawn anew every step.
        recipe: The recipe; it says how often a label is dropped.

    Reference: Ho and Salimans, "Classifier-free diffusion guidance", 2022, algorithm 1.
    """
    return labels.masked_fill(uniforms < recipe.loss.label_dropout, recipe.model.num_classes)


def shown_labels(model: Any, labels: Tensor) -> Any:
    """Return the network of these classes: a denoiser like any other, as every loss knows it."""
    return partial(model, class_labels=labels)
