"""The fast paths of spikediff: the only file here that knows whether they exist.

Each function raises `Missing` where its path is not there, and the table says so.
"""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from performance.missing import Missing
from spikediff.cli.models import networks_of
from spikediff.errors import UserError

Context = Callable[[], AbstractContextManager[Any]]


def kernel(name: str) -> Context:
    """Return what makes the context in which neurons run by the kernel "reference" or "native"."""
    try:
        from spikediff.neurons.kernels import using
    except ImportError:
        if name == "reference":  # the only one that there is
            return nullcontext
        raise Missing("no spikediff.neurons.kernels.using") from None
    try:
        with using(name):
            return partial(using, name)
    except UserError as error:
        raise Missing(str(error)) from error


def low_memory() -> Context:
    """Return what makes the context of a forward pass that saves spikes as bits."""
    try:
        from spikediff.training.memory import compressed_activations
    except ImportError:
        raise Missing("no spikediff.training.memory.compressed_activations") from None
    return compressed_activations


def compiled(model: nn.Module) -> nn.Module:
    """Return the event-driven copy of a network, for inference."""
    try:
        from spikediff.events import compile_for_inference
    except ImportError:
        raise Missing("no spikediff.events.compile_for_inference") from None
    try:
        return compile_for_inference(model)
    except UserError as error:
        raise Missing(str(error)) from error


def compiled_pipeline(pipe: Any) -> Any:
    """Return a pipeline of the same scheduler whose networks are compiled."""
    parts = dict(pipe.components)
    for name, network in networks_of(pipe).items():
        fast = compiled(network)
        for attribute in ("config", "dtype"):  # what pipelines ask a network for
            if not hasattr(fast, attribute):
                setattr(fast, attribute, copy.copy(getattr(network, attribute)))
        parts[name] = fast
    made = type(pipe)(**parts)
    made.set_progress_bar_config(disable=True)
    return made


def event_driven_conv(
    spikes: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int
) -> Callable[[], Any]:
    """Return the convolution of these spikes by events, ready to run; dense spikes go in."""
    try:
        from spikediff.events import spike_conv2d
    except ImportError:
        raise Missing("no spikediff.events.spike_conv2d") from None

    @torch.no_grad()
    def run() -> Any:
        return spike_conv2d(spikes, weight, bias, stride, padding)

    return run
