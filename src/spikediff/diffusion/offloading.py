"""Offloading layer by layer, for networks in which a layer uses the weights of another.

`enable_sequential_cpu_offload` brings the weights of a layer when the layer is called, and takes
them away behind it. Where a layer reads another one's threshold, all have to be there at once.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

from torch import nn

Forward = TypeVar("Forward", bound=Callable[..., Any])


def with_all_weights(forward: Forward) -> Forward:
    """Let all weights of an offloaded network be there while it computes.

    Args:
        forward: The `forward` of the network's class.
    """

    @wraps(forward)
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not hasattr(self, "_hf_hook"):  # accelerate's
            return forward(self, *args, **kwargs)
        with _all_there(self):
            return forward(self, *args, **kwargs)

    return call  # type: ignore[return-value]


@contextmanager
def _all_there(network: nn.Module) -> Iterator[None]:
    """Bring the weights of all layers, and switch off the hooks that would take them away."""
    layers: list[Any] = [
        layer for layer in network.modules() if layer is not network and hasattr(layer, "_hf_hook")
    ]
    hooked = [(layer, layer.forward) for layer in layers]
    for layer in layers:
        layer._hf_hook.pre_forward(layer)
        layer.forward = layer._old_forward
    try:
        yield
    finally:
        for layer, forward in hooked:
            layer.forward = forward
            layer._hf_hook.post_forward(layer, None)
