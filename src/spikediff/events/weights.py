"""Weights of event-driven synapses in the layout of the C kernels, as floats or integers."""

from ctypes import c_int, c_int64
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from spikediff.errors import UserError, check_known
from spikediff.events.kernel_offsets import Sums
from spikediff.events.packed import slots_of
from spikediff.files.tensors import check_finite
from spikediff.native import check_tensor, library_of, pointer

Precision = Literal["float32", "int16", "int8"]
BITS: dict[str, int] = {"float32": 32, "int16": 16, "int8": 8}
_TYPES = {8: torch.int8, 16: torch.int16}
MAX_OFFSETS = 1024  # offsets of a kernel; MAX_TAPS in spikediff.h
MOST_ROWS = 65_536  # 16-bit rows whose sum always fits an int32


def check_precision(weights: str) -> None:
    """Refuse an unknown precision."""
    check_known("weights", weights, BITS)


def quantise(weight: Tensor, bits: int, axis: int = 0) -> tuple[Tensor, Tensor]:
    r"""Round a kernel to integers, with a scale per output channel (along `axis`).

    $q = \mathrm{round}(w / \delta)$ with $\delta = \max |w| / (2^{bits - 1} - 1)$. The error of a
    weight is at most $\delta / 2$; a current has this error per active input.

    Returns:
        q, int8 or int16, of the weight's shape; and the scales [C_out], float32.

    Example:
        >>> q, scales = quantise(torch.tensor([1.0, -0.5, 0.0]).view(1, 3, 1, 1), bits=8)
        >>> q.flatten().tolist(), round(127 * scales.item(), 6)
        ([127, -64, 0], 1.0)
    """
    check_tensor(weight, "quantise: weight", weight.dtype, (None,) * weight.dim())
    if bits not in _TYPES or not weight.is_floating_point() or weight.numel() == 0:
        raise UserError(f"quantise: needs real weights and 8 or 16 bits, not {bits}")
    largest = 2 ** (bits - 1) - 1
    axes = [i for i in range(weight.dim()) if i != axis]
    scales = weight.detach().double().abs().amax(axes) / largest
    scales = torch.where(scales > 0, scales, 1.0).float()  # the kernel multiplies by these values
    shape = [-1 if i == axis else 1 for i in range(weight.dim())]
    whole = (weight.detach().double() / scales.double().view(shape)).round()
    return whole.clamp(-largest, largest).to(_TYPES[bits]), scales


@dataclass(frozen=True)
class EventWeights:
    """A kernel in the layout of the C code.

    Attributes:
        rows: [blocks, h, w, slots, block], zero where there is no channel. Float32, or integers
            with the highest bit flipped and output channels in the order of `_interleaved`.
        bits: Bits per weight: 32 for floats.
        scales: Factors of integers [blocks * block]; None for floats.
    """

    rows: Tensor
    bits: int = 32
    scales: Tensor | None = None


def event_weights(
    weight: Tensor, segments: tuple[int, ...], precision: Precision = "float32"
) -> EventWeights:
    """Return a kernel [C_out, C, h, w] in the layout of the C code.

    `segments` define the arrangement of channels in the words (`PackedSpikes.segments`). A kernel
    too large for int32 sums stays float32. Weights that are not finite are refused, because a
    silent channel would hide them.
    """
    check_precision(precision)
    shape = (None, sum(segments), None, None)
    check_tensor(weight, "event-driven convolution: weight", torch.float32, shape)
    if not all(weight.shape) or weight[0, 0].numel() > MAX_OFFSETS:
        raise UserError(
            f"event-driven convolution: a kernel {list(weight.shape)} is empty, or has more than "
            f"{MAX_OFFSETS} offsets"
        )
    weight = weight.resolve_neg()
    check_finite({"weight": weight}, "event-driven convolution")
    bits = BITS[precision]
    if bits == 32 or weight[0].numel() > MOST_ROWS:
        return EventWeights(_blocks(_into_slots(weight.detach(), segments)))
    whole, scales = quantise(weight, bits)
    rows = _interleaved(_into_slots(whole, segments), bits)
    padded = scales.new_zeros(rows.shape[0] * rows.shape[-1])
    padded[: len(scales)] = scales
    return EventWeights(rows, bits, padded)


def _into_slots(weight: Tensor, segments: tuple[int, ...]) -> Tensor:
    """Pad segments to full words: [C_out, C, h, w] -> [C_out, slots, h, w]."""
    if len(segments) == 1:
        return weight
    slots = slots_of(segments)
    padded = weight.new_zeros(len(weight), int(slots[-1]) + 1, *weight.shape[2:])
    padded[:, slots] = weight
    return padded


def _blocks(weight: Tensor) -> Tensor:
    """Return floats in blocks: [C_out, slots, h, w] -> [blocks, h, w, slots, block]."""
    block = library_of().synapse_block(c_int(32))
    out_channels, slot_count, height, width = weight.shape
    blocks = torch.empty(-(-out_channels // block), height, width, slot_count, block)
    kernel = weight.contiguous(memory_format=torch.channels_last)
    sizes = map(c_int64, (out_channels, height * width, slot_count))
    threads = c_int(torch.get_num_threads())
    library_of().weights_to_blocks(pointer(kernel), pointer(blocks), *sizes, threads)
    return blocks


def _interleaved(whole: Tensor, bits: int) -> Tensor:
    """Return integers [C_out, slots, h, w] in blocks, interleaved so that sums come out in order.

    In a vector, number `part` of the 32-bit lane i belongs to output channel part * lanes + i.
    """
    library, parts = library_of(), 32 // bits
    block, lanes = library.synapse_block(c_int(bits)), library.synapse_lanes()
    out_channels, slot_count, height, width = whole.shape
    count = -(-out_channels // block)
    padded = whole.new_zeros(count * block, slot_count, height, width)
    padded[:out_channels] = whole ^ (-(2 ** (bits - 1)))  # the bits of w + 2^(bits - 1)
    ordered = padded.view(count, -1, parts, lanes, slot_count, height, width)
    rows = ordered.permute(0, 5, 6, 4, 1, 3, 2)  # [count, h, w, slots, vectors, lanes, parts]
    return rows.reshape(count, height, width, slot_count, block)


def sum_offsets(weight: Tensor, y_sums: Sums | None, x_sums: Sums | None) -> Tensor:
    """Return a kernel with merged offsets (`kernel_offsets.doubled_offsets`).

    `y_sums` and `x_sums` list, along h and w, the offsets to sum into each new offset; None keeps
    an axis unchanged.

    Example:
        >>> kernel = torch.arange(3.0).view(1, 1, 1, 3)
        >>> sum_offsets(kernel, None, ((1, 2), (0, 1), (2,), (0,))).flatten().tolist()
        [3.0, 1.0, 2.0, 0.0]
    """
    for axis, sums in ((2, y_sums), (3, x_sums)):
        if sums is not None:
            parts = [weight.index_select(axis, torch.tensor(ks)).sum(axis) for ks in sums]
            weight = torch.stack(parts, axis)
    return weight
