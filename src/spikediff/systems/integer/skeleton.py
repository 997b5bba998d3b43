"""The U-Net shared by both forms, which supply its layers: currents add, spikes are convolved."""

from collections.abc import Sequence
from functools import partial
from itertools import takewhile
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikediff.errors import UserError
from spikediff.layers.recomputation import computed
from spikediff.layers.sizes import check_layers, check_positive, check_widths, patches_of
from spikediff.layers.unet import way_down, way_up

_SENSITIVE_BITS = 8  # of the weights on which the loss depends most; see `bits_by_synapse`


class Parts(Protocol):
    """Makes the layers of a network: floating-point for training, integer for deployment."""

    def neuron(self, channels: int, last: bool = False) -> nn.Module:
        """Return neurons: current [B, C, H, W] -> counts; `last` if before the last convolution."""

    def synapse(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        gain: float = 1.0,
    ) -> nn.Module:
        """Return a synapse: (counts, the neurons that emitted them, call) -> current."""

    def bias(self, channels: int) -> nn.Module:
        """Return the bias of timestep and class: call -> [B or 1, C, 1, 1]."""

    def head(self, in_channels: int, out_channels: int) -> nn.Module:
        """Return the last synapse, with the interface of all synapses."""


class Block(nn.Module):
    """A residual block: currents are added, spikes are convolved.

    `h + synapse2(neuron2(synapse1(neuron1(h)) + bias(t, class)))`; if the widths differ, a 1x1
    synapse from the first spikes replaces h.
    """

    gradient_checkpointing = False  # diffusers' flag; see `recomputation`

    def __init__(self, parts: Parts, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.neuron1 = parts.neuron(in_channels)
        self.synapse1 = parts.synapse(in_channels, out_channels)
        self.time = parts.bias(out_channels)
        self.neuron2 = parts.neuron(out_channels)
        self.synapse2 = parts.synapse(out_channels, out_channels, gain=0.1)
        same = in_channels == out_channels
        self.shortcut = None if same else parts.synapse(in_channels, out_channels, kernel_size=1)

    def forward(self, h: Tensor, call: Any) -> Tensor:
        """Return the current [B, C_out, H, W]."""
        spikes = self.neuron1(h)
        current = self.synapse1(spikes, self.neuron1, call) + self.time(call)
        current = self.synapse2(self.neuron2(current), self.neuron2, call)
        if self.shortcut is not None:
            h = self.shortcut(spikes, self.neuron1, call)
        out: Tensor = current + h
        return out


class Doubling(nn.Module):
    """Repeat every spike 2x2."""

    def forward(self, spikes: Tensor) -> Tensor:
        """Return spikes [B, C, 2 H, 2 W]."""
        return F.interpolate(spikes, scale_factor=2.0, mode="nearest")


class Resample(nn.Module):
    """A 3x3 synapse that halves the image (stride 2) or doubles it (every spike repeated 2x2)."""

    def __init__(self, parts: Parts, doubles: bool, channels: int) -> None:
        super().__init__()
        self.neuron = parts.neuron(channels)
        self.synapse = parts.synapse(channels, channels, stride=1 if doubles else 2)
        self.resize = Doubling() if doubles else nn.Identity()

    def forward(self, h: Tensor, call: Any) -> Tensor:
        """Return the current at the new size."""
        out: Tensor = self.synapse(self.resize(self.neuron(h)), self.neuron, call)
        return out


def add_skeleton(
    model: nn.Module, widths: Sequence[int], layers_per_block: int, pixels: int, parts: Parts
) -> None:
    """Add everything after the stem to a model, `down_blocks` to `head`, from the given parts.

    `widths` are the channels of the levels, `pixels` those of the output, patch by patch.
    """
    block = partial(Block, parts)
    model.down_blocks, skips = way_down(
        widths[0], widths, layers_per_block, block, partial(Resample, parts, False)
    )
    model.middle_block = block(widths[-1], widths[-1])
    model.up_blocks = way_up(widths, layers_per_block, skips, block, partial(Resample, parts, True))
    model.last_neuron = parts.neuron(widths[0], last=True)
    model.head = parts.head(widths[0], pixels)


def bits_by_synapse(model: Any, weight_bits: int) -> dict[str, int]:
    """Return the bits per weight of every synapse of a model, by name.

    The blocks of the first level, the 1x1 shortcuts and the last convolution keep 8: rounding them
    to fewer bits adds most of the loss (`benchmarks/integer_weights.py`).
    """
    bits = {"head": _SENSITIVE_BITS}
    halves = (model.down_blocks, reversed(model.up_blocks))
    first = [each for half in halves for each in takewhile(_keeps_size, half)]
    for name, part in model.named_modules():
        if isinstance(part, Resample):
            bits[f"{name}.synapse"] = weight_bits
        elif isinstance(part, Block):
            sensitive = any(part is each for each in first)
            for each in ("synapse1", "synapse2"):
                bits[f"{name}.{each}"] = _SENSITIVE_BITS if sensitive else weight_bits
            if part.shortcut is not None:
                bits[f"{name}.shortcut"] = _SENSITIVE_BITS
    return bits


def _keeps_size(part: nn.Module) -> bool:
    return not isinstance(part, Resample)


def _through(block: nn.Module, h: Tensor, call: Any) -> Tensor:
    """Return the current after a block; see `spikediff.layers.recomputation`."""
    if isinstance(block, Block):
        return computed(block, h, call)
    out: Tensor = block(h, call)
    return out


def through_skeleton(model: Any, h: Tensor, call: Any) -> Tensor:
    """Return a model's output for the current of its stem [B, C, H, W], patch by patch."""
    skips = [h]
    for block in model.down_blocks:
        h = _through(block, h, call)
        skips.append(h)
    h = _through(model.middle_block, h, call)
    for block in model.up_blocks:
        if isinstance(block, Block):
            h = torch.cat([h, skips.pop()], dim=1)
        h = _through(block, h, call)
    answer: Tensor = model.head(model.last_neuron(h), model.last_neuron, call)
    return answer


def check_skeleton(config: Any) -> None:
    """Refuse sizes that do not give a U-Net."""
    network, widths = "IntegerSpikingUNet", config.block_out_channels
    patches = patches_of(network, config.sample_size, config.patch_size)
    check_layers(network, config.layers_per_block)
    sizes = "sample_size", "in_channels", "levels", "head_levels"
    check_positive(network, **{name: config[name] for name in (*sizes, "num_train_timesteps")})
    check_widths(network, block_out_channels=widths)
    factor = 2 ** (len(widths) - 1)
    if patches % factor:
        raise UserError(
            f"{network}: {patches} patches per side must be divisible by {factor}, "
            f"because block_out_channels={tuple(widths)} has {len(widths)} levels"
        )
