"""From the original network to its populations, in float64."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spikediff.layers import PostActivationBlock, SynapticResampling
from spikediff.models.merged.parts import (
    Part,
    constant_current,
    gain_of,
    merged_synapses,
    resampled,
    shrunk,
)
from spikediff.models.merged.populations import Population, TimestepCurrents, TimestepDrive
from spikediff.models.synaptic_current_unet import SynapticCurrentUNet

IMAGE = "image"  # the source that the image's currents are
READOUT = "readout"


class Assembly:
    """The populations of a network, named as its neuron layers, in the order in which they fire.

    Args:
        model: The original in evaluation mode, in float64 on the CPU.

    Attributes:
        populations: By name.
        stem: What the first level and the read-out see of the stem.
        seen: What the read-out sees.
    """

    def __init__(self, model: SynapticCurrentUNet) -> None:
        self.populations: dict[str, Population] = {}
        self._names = {layer: name for name, layer in model.named_modules()}
        image = Part(IMAGE, model.config.in_channels, model.config.sample_size)
        self.stem = self._behind(model.stem, image)
        self.seen = self._walk(model)
        norm = nn.Identity()
        self.populations[READOUT] = Population(
            merged_synapses(self.seen, model.readout, norm),
            constant_current(self.seen, model.readout, norm),
        )

    def _walk(self, model: Any) -> list[Part]:
        """Follow the original's forward pass; return what its read-out sees."""
        h = self.stem
        skips = [h]
        for level in model.down_levels:
            for block in level.blocks:
                h = self._block(block, [h])
                skips.append(h)
            h = self._behind(level.resampling, h)
        for block in model.middle_blocks:
            h = self._block(block, [h])
        shallow = skips[: 1 + model.config.layers_per_block]
        for level in model.up_levels:
            risen = []
            for block in level.blocks:
                h = self._block(block, [h, skips.pop()])
                risen.append(h)
            h = self._behind(level.resampling, h)
        h = self._block(model.last_block, [h, skips.pop()])
        return [h, *shallow, *risen]

    def _behind(self, module: SynapticResampling, part: Part) -> Part:
        """Return what is seen behind a resampling: new spikes where it has neurons."""
        seen = resampled(part, module)
        if module.neuron is None:
            return seen
        synapses = merged_synapses([seen], None, module.norm)
        return self._fire(module.neuron, synapses, constant_current([seen], None, module.norm))

    def _block(self, block: PostActivationBlock, parts: Sequence[Part]) -> Part:
        """Return the spikes of a residual block, which are those of two populations."""
        conv, norm = block.synapse1.conv, block.synapse1.norm
        linear = block.timestep_synapse
        hidden = self._fire(
            block.neuron1,
            merged_synapses(parts, conv, norm),
            constant_current(parts, conv, norm, more=linear.bias),
            TimestepDrive(block.timestep_neuron, _scaled_linear(linear, norm)),
        )
        conv, norm, shortcut = block.synapse2.conv, block.synapse2.norm, block.shortcut
        skip_conv = shortcut.conv if isinstance(shortcut.conv, nn.Conv2d) else None
        return self._fire(
            block.neuron2,
            merged_synapses([hidden], conv, norm)
            | merged_synapses(parts, skip_conv, shortcut.norm),
            constant_current([hidden], conv, norm)
            + constant_current(parts, skip_conv, shortcut.norm),
        )

    def _fire(
        self,
        neuron: nn.Module,
        synapses: dict[str, nn.Module],
        constant: Tensor,
        drive: TimestepDrive | None = None,
    ) -> Part:
        name = self._names[neuron].replace(".", "_")
        self.populations[name] = Population(synapses, shrunk(constant), neuron, drive)
        return Part(name, channels=len(constant), size=constant.shape[-1])


def timestep_currents(model: SynapticCurrentUNet) -> TimestepCurrents:
    """Return the table of a network's timestep currents, and what follows it."""
    embedding = model.time_embedding
    return TimestepCurrents(embedding.linear1(embedding.table), embedding.neuron, embedding.linear2)


def _scaled_linear(linear: nn.Linear, norm: nn.Module) -> nn.Linear:
    """Return the linear map with the gain of the norm behind it, and without its bias."""
    gain = gain_of(norm, linear.out_features)
    scaled = nn.Linear(linear.in_features, linear.out_features, bias=False, dtype=torch.float64)
    scaled.weight.copy_(linear.weight * gain[:, None])
    return scaled
