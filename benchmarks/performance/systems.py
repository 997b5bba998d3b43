"""The ways to run one network: the plain one, SpikingJelly's, and ours."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from performance import naive_peer, ours, spikingjelly_peer
from performance.surgery import ResetFirst

NAIVE, PEER, PEER_COMPILED = "naive", "SpikingJelly", "SpikingJelly compiled"
OURS = "ours"  # what the names of our rows begin with; the guard watches these
REFERENCE, NATIVE, TRITON = "ours reference", "ours native", "ours triton"
COMPILED, LOW_MEMORY, BY_EVENTS = "ours compiled", "ours low memory", "ours by events"
INT16, INT8 = "ours int16", "ours int8"  # compiled, with rounded weights
PEER_BF16, BF16 = "SpikingJelly bf16", "ours bf16"  # trained in mixed precision


@dataclass(frozen=True)
class System:
    """A network, and the context that it is called in."""

    network: nn.Module
    context: Callable[[], AbstractContextManager[Any]] = nullcontext

    def __call__(self, *inputs: Any) -> Tensor:
        """Return what the network makes of its input."""
        with self.context():
            made = self.network(*inputs)
        return made if isinstance(made, Tensor) else made.sample

    def clear(self) -> None:
        """Drop what an earlier call left: gradients, and the state of neurons that keep one.

        A state that is kept keeps the graph of its call alive too.
        """
        self.network.zero_grad(set_to_none=True)
        if isinstance(self.network, ResetFirst):
            self.network.reset(self.network.network)


def build(name: str, model: nn.Module, training: bool) -> System:
    """Return a network of its own, of the same weights, that runs in the named way.

    Args:
        name: The way.
        model: Our network, or one neuron layer.
        training: Whether it is to be trained.

    Raises:
        Missing: What this way needs is not here.
    """
    model = copy.deepcopy(model).train(training)
    match name:
        case "naive":
            return System(naive_peer.network(model))
        case "SpikingJelly":
            return System(spikingjelly_peer.network(model))
        case "SpikingJelly compiled":
            return System(spikingjelly_peer.network(model, compiled=True))
        case "ours reference" | "ours native" | "ours triton":
            return System(model, ours.kernel(name.removeprefix("ours ")))
        case "ours compiled":
            return System(ours.compiled(model))
        case "ours int16":
            return System(ours.compiled(model, "int16"))
        case "ours int8":
            return System(ours.compiled(model, "int8"))
        case "ours low memory":
            return System(model, ours.low_memory())
        case "SpikingJelly bf16":
            return System(spikingjelly_peer.network(model), ours.bf16)
        case "ours bf16":
            return System(model, ours.low_memory_bf16)
        case "ours by events":
            return System(ours.trained_by_events(model), ours.low_memory())
    raise ValueError(f"no such way to run a network: {name}")


def forward(system: System, *inputs: Any) -> Callable[[], Tensor]:
    """Return inference, ready to run."""

    @torch.no_grad()
    def run() -> Tensor:
        return system(*inputs)

    return run


def loss(system: System, sample: Tensor, timestep: int, eps: Tensor) -> Tensor:
    """Return the loss of a training step, its gradients dropped before."""
    system.network.zero_grad(set_to_none=True)
    return nn.functional.mse_loss(system(sample, timestep), eps)


def training_step(system: System, sample: Tensor, timestep: int, eps: Tensor) -> Callable[[], None]:
    """Return forward and backward of a training step; the optimizer's update is not in it."""
    return lambda: loss(system, sample, timestep, eps).backward()
