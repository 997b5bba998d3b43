"""What the convolutions of a trained network see: spikes with the structure that training gave."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from performance.sources import Source
from spikediff.energy.provenance import read_signal


@dataclass(frozen=True)
class Seen:
    """A convolution and the spikes that it saw in one forward pass.

    Attributes:
        layer: Its name.
        conv: The convolution.
        spikes: Its input [T*B, C, H, W].
    """

    layer: str
    conv: nn.Conv2d
    spikes: Tensor

    @property
    def dense_macs(self) -> int:
        """Multiplications of the dense convolution, to order by."""
        pixels = self.spikes.shape[0] * self.spikes.shape[2] * self.spikes.shape[3]
        return pixels * self.conv.weight.numel() // self.conv.stride[0] ** 2

    @property
    def geometry(self) -> tuple[Any, ...]:
        """What decides the time of the dense convolution."""
        return (tuple(self.spikes.shape), tuple(self.conv.weight.shape), self.conv.stride)


@torch.no_grad()
def spikes_seen(source: Source, geometries: int) -> list[Seen]:
    """Return one convolution of each geometry, of those that have most of the operations.

    Of the convolutions of one geometry it is the one of the median firing rate.

    Args:
        source: The network and its input.
        geometries: How many.
    """
    seen: list[Seen] = []

    def record(name: str) -> Any:
        def hook(conv: nn.Conv2d, inputs: tuple[Tensor]) -> None:
            if conv.kernel_size == (3, 3) and read_signal(inputs[0]).kind == "binary":
                seen.append(Seen(name, conv, inputs[0].clone()))

        return hook

    convs = [(n, m) for n, m in source.model.named_modules() if isinstance(m, nn.Conv2d)]
    hooks = [conv.register_forward_pre_hook(record(name)) for name, conv in convs]
    try:
        source.model(source.sample, source.timestep)
    finally:
        for hook in hooks:
            hook.remove()
    alike: dict[tuple[Any, ...], list[Seen]] = {}
    for one in seen:
        alike.setdefault(one.geometry, []).append(one)
    most = sorted(alike.values(), key=lambda group: -sum(one.dense_macs for one in group))
    return [_middle(group) for group in most[:geometries]]


def _middle(group: list[Seen]) -> Seen:
    ordered = sorted(group, key=lambda one: one.spikes.mean().item())
    return ordered[len(ordered) // 2]
