"""The layout of a deployment form for the C kernels: tables, prepacked weights, memory offsets.

C code (`spikediff/native/integer_network.c`) computes all layers of an image, channels last and
padded to a multiple of 16. Tables of input pixels describe strides, upsampling and the image's
border, offsets into the counts describe concatenation, and a table of offsets describes patches.
"""

from collections.abc import Sequence
from ctypes import byref, c_int, c_int64
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from spikediff.native import check_tensor, library_of, native_name, pointer
from spikediff.systems.integer.skeleton import Doubling, Resample
from spikediff.systems.integer.structures import (
    BY_DENSITY,
    Listener,
    Network,
    Outlet,
    SynapseLayer,
    finish,
)
from spikediff.systems.integer.weights import FRACTION_BITS

CHANNELS = 16  # of which a layer has a multiple
QUAD = 4  # channels that are multiplied at once
NEVER = 2**31 - 1  # the threshold of padding neurons


def has_kernels() -> bool:
    """Return whether there are C kernels faster than plain torch: at least AVX2."""
    return native_name() not in ("none", "baseline")


@dataclass
class Current:
    """The output of a layer during layout; `channels` excludes padding."""

    out: Outlet
    height: int
    width: int
    channels: int


@dataclass
class Counts:
    """Offsets of counts in an image's memory, and in its state (`kept`, if a synapse keeps them).

    `sections` are the channels of the source currents; each section is padded.
    """

    place: int
    height: int
    width: int
    sections: tuple[int, ...]
    kept: int | None = None

    @property
    def pixel_bytes(self) -> int:
        """Bytes of a pixel."""
        return sum(map(padded, self.sections))


@dataclass
class Layout:
    """Layers in the order of execution, the data they point to, and the bytes per image."""

    layers: list[SynapseLayer] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    memory_bytes: int = 0
    state_bytes: int = 0

    def room(self, size: int) -> int:
        """Return the offset of a new block of bytes in an image's memory."""
        place, self.memory_bytes = self.memory_bytes, self.memory_bytes + _aligned(size)
        return place

    def kept_room(self, size: int) -> int:
        """Return the offset of a new block of bytes in an image's state."""
        place, self.state_bytes = self.state_bytes, self.state_bytes + _aligned(size)
        return place

    def at(self, x: Tensor) -> int | None:
        """Return a tensor's address, and keep the tensor alive."""
        self.tensors.append(x.contiguous())
        return pointer(self.tensors[-1]).value

    def outlet(self, left: Tensor, bias: Tensor, tables: Any = None) -> Outlet:
        """Return an outlet without listeners, from shifts and biases [C] and `StepTables`."""
        out = Outlet(self.at(_filled(left.int())), self.at(_filled(bias)), residual=-1, current=-1)
        out.channels = padded(len(left))
        if tables is not None:
            out.of_timestep = self.at(_filled(tables.of_timestep))
            out.of_class = self.at(_filled(tables.of_class))
            out.table_left = int(tables.shift)
        return out

    def keep(self, current: Current) -> int:
        """Return the offset at which a current is stored for a residual."""
        if current.out.current < 0:
            size = 4 * current.height * current.width * current.out.channels
            current.out.current = self.room(size)
        place: int = current.out.current
        return place

    def listen(self, neuron: Any, currents: Sequence[Current]) -> Counts:
        """Connect neurons (`FixedPointNeuron`) to currents, which are concatenated."""
        first = currents[0]
        sections = tuple(current.channels for current in currents)
        counts = Counts(0, first.height, first.width, sections)
        counts.place = self.room((first.height * first.width + 1) * counts.pixel_bytes)
        place = counts.place
        parts = neuron.thresholds.split(sections, dim=1)
        for current, thresholds in zip(currents, parts, strict=True):
            current.out.listener[current.out.listeners] = Listener(
                self.at(_filled(thresholds, NEVER)), neuron.levels, place, counts.pixel_bytes
            )
            current.out.listeners += 1
            place += padded(current.channels)
        return counts

    def convolve(
        self,
        name: str,
        synapse: Any,
        counts: Counts,
        doubled: bool = False,
        tables: Any = None,
        residual: Current | None = None,
    ) -> Current:
        """Add a convolution (`IntegerSynapse`) of counts; return its current.

        With `doubled`, every pixel is first repeated 2x2. `tables` (`StepTables`) has the biases
        of timestep and class; `residual` is a current to add.
        """
        size = (counts.height, counts.width)
        table, height, width = sources(*size, synapse.shape[-1], synapse.stride, doubled)
        weights = prepacked(synapse.whole_weight, counts.sections)
        out = self.outlet(synapse.shift, synapse.bias, tables)
        if residual is not None:
            out.residual = self.keep(residual)
        first = counts.kept is None
        if first:
            counts.kept = self.kept_room(counts.height * counts.width * counts.pixel_bytes)
        layer = SynapseLayer(
            self.at(table), self.at(weights), self.at(weights.view(torch.uint8) ^ 128),
            *size, doubled, synapse.shape[-1], synapse.stride, synapse.shape[-1] // 2,
            height, width, counts.pixel_bytes // QUAD, counts.place,
            counts.kept if first else -1,
            self.kept_room(4 * height * width * out.channels), BY_DENSITY, out,
        )  # fmt: skip
        self.layers.append(layer)
        self.names.append(name)
        return Current(layer.out, height, width, synapse.shape[0])


def _aligned(size: int) -> int:
    return -(-size // 64) * 64


def padded(channels: int) -> int:
    """Return the number of channels of a layer in memory."""
    return -(-channels // CHANNELS) * CHANNELS


def _filled(x: Tensor, value: int = 0) -> Tensor:
    """Return [..., C] with the channels padded."""
    return F.pad(x.detach(), (0, padded(x.shape[-1]) - x.shape[-1]), value=value)


def sources(
    height: int, width: int, kernel: int, stride: int, doubled: bool, padding: int | None = None
) -> tuple[Tensor, int, int]:
    """Return the input pixel of every kernel offset [H' * W', k * k], int32, and H' and W'.

    Height and width are those of the input before `doubled` repeats every pixel 2x2. The padding is
    k // 2 by default; an offset in the padding reads the pixel height * width.
    """
    padding = kernel // 2 if padding is None else padding
    scale = 2 if doubled else 1
    axes = []
    for size in (height, width):
        places = (scale * size + 2 * padding - kernel) // stride + 1
        reads = torch.arange(places)[:, None] * stride - padding + torch.arange(kernel)
        outside = (reads < 0) | (reads >= scale * size)
        axes.append(torch.where(outside, -1, reads // scale))  # [places, k]
    y, x = axes[0][:, None, :, None], axes[1][None, :, None, :]
    table = torch.where((y < 0) | (x < 0), height * width, y * width + x)  # [H', W', k, k]
    return table.view(-1, kernel * kernel).to(torch.int32), len(axes[0]), len(axes[1])


def prepacked(weight: Tensor, sections: Sequence[int]) -> Tensor:
    """Return weights [C_out, C, k, k], int8, as the kernels read them [k * k, C' / 4, C_out', 4].

    The channels C form sections, each of which is padded.
    """
    out_channels, _, height, width = weight.shape
    parts = torch.split(weight.detach().permute(2, 3, 0, 1), list(sections), -1)
    rows = torch.cat([_filled(part) for part in parts], dim=-1)  # [k, k, C_out, C']
    rows = F.pad(rows, (0, 0, 0, padded(out_channels) - out_channels))
    quads = rows.view(height * width, rows.shape[2], -1, QUAD)
    return quads.transpose(1, 2).contiguous()


class Plan:
    """A `DeployedIntegerUNet`, laid out for images of one size in pixels."""

    def __init__(self, form: Any, height: int, width: int, image_fraction_bits: int) -> None:
        config, self.layout = form.config, Layout()
        patch, layout = config.patch_size, self.layout
        numbers = torch.arange(config.in_channels * height * width, dtype=torch.int32)
        image = numbers.view(1, config.in_channels, height, width)
        places = F.pixel_unshuffle(image, patch)[0].flatten(1).t().contiguous()
        self.shape = (config.in_channels, height, width)
        self.network = Network(layout.at(places), *places.shape)
        self.network.fraction_bits = FRACTION_BITS
        self.network.image_fraction_bits = image_fraction_bits
        current = self._stem(form.stem, height // patch, width // patch)
        answer = self._through(form, current)
        self.network.answer, self.network.answer_channels = (
            layout.keep(answer), answer.out.channels,
        )  # fmt: skip
        self.network.stem.out = current.out
        self.network.memory_bytes = layout.memory_bytes
        self.network.state_bytes = layout.state_bytes
        finish(self.network, layout.layers)
        self._memory: tuple[int, Tensor, Tensor] | None = None

    def _stem(self, stem: Any, height: int, width: int) -> Current:
        layout, layer = self.layout, self.network.stem
        channels, values, kernel, _ = stem.weight.shape
        table, _, _ = sources(height, width, kernel, 1, False)
        weight = stem.weight.detach().permute(2, 3, 0, 1)  # [k, k, C_out, C]
        weight = F.pad(weight, (0, values % 2, 0, padded(channels) - channels))
        pairs = weight.reshape(kernel * kernel, padded(channels), -1, 2).transpose(1, 2)
        right, left = stem.shifts()
        layer.sources, layer.weights = layout.at(table), layout.at(pairs)
        layer.right = layout.at(_filled(right.int()))
        layer.pixels, layer.taps, layer.pairs = height * width, kernel * kernel, pairs.shape[1]
        layer.image = layout.room(2 * (height * width + 1) * 2 * layer.pairs)
        return Current(layout.outlet(left, stem.bias), height, width, channels)

    def _through(self, form: Any, h: Current) -> Current:
        """Lay out the layers in the order of `through_skeleton`."""
        skips = [h]
        for name, block in form.down_blocks.named_children():
            h = self._block(f"down_blocks.{name}", block, [h])
            skips.append(h)
        h = self._block("middle_block", form.middle_block, [h])
        for name, block in form.up_blocks.named_children():
            beside = [] if isinstance(block, Resample) else [skips.pop()]
            h = self._block(f"up_blocks.{name}", block, [h, *beside])
        counts = self.layout.listen(form.last_neuron, [h])
        return self.layout.convolve("head", form.head, counts)

    def _block(self, name: str, block: Any, currents: list[Current]) -> Current:
        layout = self.layout
        if isinstance(block, Resample):
            counts = layout.listen(block.neuron, currents)
            doubled = isinstance(block.resize, Doubling)
            return layout.convolve(f"{name}.synapse", block.synapse, counts, doubled)
        counts, residual = layout.listen(block.neuron1, currents), currents[0]
        if block.shortcut is not None:
            residual = layout.convolve(f"{name}.shortcut", block.shortcut, counts)
        h = layout.convolve(f"{name}.synapse1", block.synapse1, counts, tables=block.time)
        counts = layout.listen(block.neuron2, [h])
        return layout.convolve(f"{name}.synapse2", block.synapse2, counts, residual=residual)

    def run(
        self, sample: Tensor, timesteps: Tensor, classes: Tensor, state: Tensor | None
    ) -> Tensor | None:
        """Return the outputs for images [B, C, H, W], float32; None if a number is not finite.

        Timesteps and classes [B], int64, are rows of the tables. The state [B, state_bytes], uint8,
        is updated in place; None keeps no state. All tensors are contiguous.
        """
        images, threads = len(sample), torch.get_num_threads()
        check_tensor(sample, "integer network: sample", torch.float32, (images, *self.shape))
        answer, (memory, tallies) = torch.empty_like(sample), self._memory_of(threads)
        strange = library_of().integer_network_run(
            byref(self.network),
            *(pointer(x) for x in (sample, timesteps, classes, answer, memory, state, tallies)),
            c_int64(images),
            c_int(threads),
        )
        return None if strange else answer

    def tallies(self) -> Tensor:
        """Return for every convolution [N, 4]: images, those run densely, those listed, quads."""
        if self._memory is None:
            return torch.zeros(len(self.layout.names), 4, dtype=torch.int64)
        return self._memory[2].sum(0)

    def _memory_of(self, threads: int) -> tuple[Tensor, Tensor]:
        if self._memory is None or self._memory[0] != threads:
            library = library_of()
            size = library.integer_network_bytes(byref(self.network))
            self._memory = (
                threads,
                torch.zeros(threads, library.integer_network_together(), size, dtype=torch.uint8),
                torch.zeros(threads, len(self.layout.names), 4, dtype=torch.int64),
            )
        return self._memory[1:]
