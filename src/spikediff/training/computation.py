"""How a training step is computed: what is kept, what is computed again, and by which kernels."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from spikediff.events import train_event_driven
from spikediff.layers import BLOCKS, PostActivationBlock, ThresholdNorm
from spikediff.native import keep_large_tensors
from spikediff.training.memory import compressed_activations
from spikediff.training.recipe import TrainingRecipe

_log = logging.getLogger("spikediff")

RESIDUAL_BLOCKS = (*BLOCKS.values(), PostActivationBlock)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, ThresholdNorm)


def prepare_computation(model: nn.Module, recipe: TrainingRecipe, device: torch.device) -> None:
    """Set a model up as the recipe says, in place; names and values of its weights stay.

    Args:
        model: The network that is trained.
        recipe: How to train it.
        device: Where.
    """
    steps = cast(Any, model).config.get("spiking_steps")  # an ordinary network has none
    in_float32 = device.type == "cpu" and recipe.mixed_precision == "no"
    if recipe.event_driven and in_float32 and steps:
        _channels_last(model)
        train_event_driven(model, steps)
    if recipe.keep_large_tensors and not keep_large_tensors():
        _log.warning("training.keep_large_tensors: this system's C library has no such switch")
    if recipe.gradient_checkpointing:
        checkpoint_blocks(model)
    if recipe.compile:
        _channels_last(model)
        model.compile(dynamic=False)  # in place: the names of the weights stay


def _channels_last(model: nn.Module) -> None:
    """Lay the kernels out channels-last; torch's own way trips over factors [T, 1, 1, 1, 1]."""
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def keeping_activations(recipe: TrainingRecipe) -> AbstractContextManager[None]:
    """Return the context of a forward pass, which says how activations are kept."""
    compress = recipe.compress_activations and not recipe.compile
    return compressed_activations() if compress else nullcontext()


def checkpoint_blocks(model: nn.Module) -> None:
    """Compute the residual blocks again in the backward pass, in place.

    Dropout draws the same the second time, and the running statistics of the norms see a batch
    once: neither gradients nor statistics change.

    Args:
        model: A U-Net of this library; a network without residual blocks is left as it is.
    """
    for module in model.modules():
        if isinstance(module, RESIDUAL_BLOCKS):
            module.forward = partial(_computed_again, module, module.forward)


def _computed_again(module: nn.Module, forward: Callable[..., Tensor], *args: Any) -> Tensor:
    if not torch.is_grad_enabled():
        return forward(*args)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _frozen_statistics(module)

    output: Tensor = checkpoint(forward, *args, use_reentrant=False, context_fn=contexts)
    return output


@contextmanager
def _frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Let no norm below a module move its running statistics."""
    norms: list[Any] = [norm for norm in module.modules() if isinstance(norm, NORMS)]
    kept = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)
