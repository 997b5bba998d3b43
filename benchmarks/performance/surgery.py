"""The same network with other neurons: how a peer's network is made from ours."""

import copy
from collections.abc import Callable
from typing import Any

from torch import nn

from spikediff.neurons import NeuronLayer


def with_neurons(model: nn.Module, make: Callable[[NeuronLayer], nn.Module]) -> nn.Module:
    """Return a copy of a network, weights and all, every neuron layer of which was made anew.

    What stays are torch's convolutions and norms over [T*B, C, H, W]. SpikingJelly's multi-step
    layers fold time into the batch in the same way, so they lose nothing by it.

    Args:
        model: The network.
        make: Returns what stands for a neuron layer, by its constants.
    """
    made = copy.deepcopy(model)
    for parent in list(made.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, NeuronLayer):
                setattr(parent, name, make(child))
    return made


class ResetFirst(nn.Module):
    """A network whose neurons keep state, put back to rest before every call.

    Args:
        network: The network.
        reset: Puts a network's neurons to rest.
    """

    def __init__(self, network: nn.Module, reset: Callable[[nn.Module], Any]) -> None:
        super().__init__()
        self.network = network
        self.reset = reset

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Reset, then call."""
        self.reset(self.network)
        return self.network(*args, **kwargs)
