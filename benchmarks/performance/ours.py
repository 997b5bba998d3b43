"""The fast paths of spikediff, as rows of the table.

Each function raises `Missing` where the compiled kernels are not there, and the table says so.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from performance.missing import Missing
from spikediff.errors import UserError
from spikediff.events import EventConv2d, Precision, compile_for_inference, pack
from spikediff.native import native
from spikediff.neurons.kernels import using
from spikediff.training.computation import compressed_activations, prepare_computation
from spikediff.training.recipe import TrainingRecipe

Context = Callable[[], AbstractContextManager[Any]]


def kernel(name: str) -> Context:
    """Return what makes the context in which neurons run by a kernel, such as "native"."""
    if name == "native":
        _need_kernels()
    try:
        with using(name):
            return partial(using, name)
    except UserError as error:
        raise Missing(str(error)) from error


def low_memory() -> Context:
    """Return what makes the context of a forward pass that saves spikes as bits."""
    _need_kernels()
    return compressed_activations


def bf16() -> AbstractContextManager[Any]:
    """Return the context of a forward pass in mixed precision, as accelerate enters it."""
    return torch.autocast("cpu", torch.bfloat16)


@contextmanager
def low_memory_bf16() -> Iterator[None]:
    """Compute in mixed precision, and save spikes as bits."""
    _need_kernels()
    with bf16(), compressed_activations():
        yield


def trained_by_events(model: nn.Module) -> nn.Module:
    """Return the network, set up to be trained by events, in channels-last order."""
    _need_kernels()
    prepare_computation(model, TrainingRecipe(event_driven=True), torch.device("cpu"))
    return model


def compiled(model: nn.Module, weights: Precision = "float32") -> nn.Module:
    """Return the event-driven copy of a network, for inference."""
    _need_kernels()
    return compile_for_inference(model, weights)


def compiled_pipeline(pipe: Any) -> Any:
    """Return a copy of a pipeline whose networks are event-driven."""
    _need_kernels()
    made = copy.deepcopy(pipe).compile_for_inference()
    made.set_progress_bar_config(disable=True)
    return made


def event_driven_conv(
    spikes: Tensor, conv: nn.Conv2d, spiking_steps: int, weights: Precision = "float32"
) -> Callable[[], Any]:
    """Return the convolution of these spikes [T*B, C, H, W] by events, ready to run.

    They come as bits, as the neurons of an event-driven network leave them.
    """
    _need_kernels()
    layer = EventConv2d(conv, weights)
    packed = pack(spikes.unflatten(0, (spiking_steps, -1))).flatten(0, 1)
    layer(packed)  # lays the weights out

    @torch.no_grad()
    def run() -> Any:
        return layer(packed)

    return run


def _need_kernels() -> None:
    if native() is None:
        raise Missing("the C kernels are not built")
