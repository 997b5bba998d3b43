"""The running average of a network: parameters and buffers.

Batch norm's running statistics are buffers. An average of the parameters alone (as diffusers'
`EMAModel` keeps) leaves them at their initial values and ruins a spiking network.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from spikediff.training.recipe import EMARecipe


def decay_at(recipe: EMARecipe, updates: int) -> float:
    """Return the decay of the update that follows `updates` earlier ones.

    Example:
        >>> decay_at(EMARecipe(decay=0.999), updates=8)
        0.5
    """
    return min(recipe.decay, (1 + updates) / (10 + updates)) if recipe.warmup else recipe.decay


def averaged(model: nn.Module, recipe: EMARecipe) -> AveragedModel:
    """Return the average of a model, which `update_parameters(model)` moves.

    Args:
        model: The network.
        recipe: Decay and warm-up; a decay of 0 makes the average a copy of the model.

    Returns:
        The average; its `.module` is the network to sample with.
    """
    return AveragedModel(model, multi_avg_fn=_update(recipe), use_buffers=True)


def _update(
    recipe: EMARecipe,
) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    @torch.no_grad()
    def update(
        averages: Sequence[Tensor], current: Sequence[Tensor], updates: Tensor | int
    ) -> None:
        if averages[0].is_floating_point():
            weight = 1.0 - decay_at(recipe, int(updates))
            torch._foreach_lerp_(list(averages), list(current), weight)
        else:  # counters
            torch._foreach_copy_(list(averages), list(current))

    return update
