"""How a pipeline runs its networks: without gradients, evaluated, and alike in every batch."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import nn

from spikediff.layers import batch_invariant, running_statistics

Call = TypeVar("Call", bound=Callable[..., Any])


def inference(call: Call) -> Call:
    """Let a method of a pipeline run its networks so that an image depends on its seed alone.

    A network in training mode is evaluated, and comes back in that mode with the same buffers.
    """

    @wraps(call)
    def run(pipe: Any, *args: Any, **options: Any) -> Any:
        networks = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
        with torch.no_grad(), ExitStack() as stack:
            for network in networks:
                stack.enter_context(running_statistics(network))
                stack.enter_context(batch_invariant(network))
            return call(pipe, *args, **options)

    return cast(Call, run)
