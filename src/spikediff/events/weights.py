"""The weights of an event-driven synapse, laid out for the C kernels: floats or whole numbers."""

from ctypes import c_int, c_int64
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from spikediff.errors import UserError, suggestion
from spikediff.events.packed import slots_of
from spikediff.files.tensors import check_finite
from spikediff.native import check_tensor, library_of, pointer

Precision = Literal["float32", "int16", "int8"]
BITS: dict[str, int] = {"float32": 32, "int16": 16, "int8": 8}
assert tuple(BITS) == get_args(Precision)

MAX_TAPS = 1024  # of a kernel, as in spikediff.h

Sums = tuple[tuple[int, ...], ...]  # the taps of a kernel that make each tap of another

# Rows of 16 bits whose sum an int32 holds, whatever they are.
MOST_ROWS = 65_536


@dataclass(frozen=True)
class EventWeights:
    """A kernel as the C code reads it.

    Attributes:
        rows: [blocks, h, w, slots, block], zero where no channel is: float32, or whole numbers
            with their highest bit flipped, their output channels in the order of `_interleaved`.
        bits: Of a weight: 32 for floats.
        scales: What a whole number is multiplied by [blocks * block]; None for floats.
    """

    rows: Tensor
    bits: int = 32
    scales: Tensor | None = None


def check_precision(weights: str) -> None:
    """Refuse a precision that there is not.

    Raises:
        UserError: It is none of `Precision`.
    """
    if weights not in BITS:
        raise UserError(f"weights={weights!r}: unknown; {suggestion(weights, list(BITS))}")


def quantise(weight: Tensor, bits: int, axis: int = 0) -> tuple[Tensor, Tensor]:
    r"""Round a kernel to whole numbers, with a scale for every output channel.

    $q = \mathrm{round}(w / \delta)$ with $\delta = \max |w| / (2^{bits - 1} - 1)$, so that a
    weight is off by at most $\delta / 2$, and a current by as much for each input that fires.

    Args:
        weight: [C_out, C, h, w], or of another order of axes.
        bits: 8 or 16.
        axis: Which of its axes is C_out.

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
    scales = torch.where(scales > 0, scales, 1.0).float()  # as the kernel multiplies by them
    shape = [-1 if i == axis else 1 for i in range(weight.dim())]
    whole = (weight.detach().double() / scales.double().view(shape)).round()
    return whole.clamp(-largest, largest).to(_TYPES[bits]), scales


_TYPES = {8: torch.int8, 16: torch.int16}


def event_weights(
    weight: Tensor, segments: tuple[int, ...], precision: Precision = "float32"
) -> EventWeights:
    """Return a kernel as the C code reads it.

    Args:
        weight: [C_out, C, h, w].
        segments: How the channels C lie in the words of the spikes (`PackedSpikes.segments`).
        precision: Of the weights; a kernel too large for sums of int32 stays float32.

    Raises:
        UserError: It is no float32 kernel of these channels, or has more than `MAX_TAPS` taps; or a
            weight is not finite: where its channel is silent it would not be seen.
    """
    check_precision(precision)
    shape = (None, sum(segments), None, None)
    check_tensor(weight, "event-driven convolution: weight", torch.float32, shape)
    if not all(weight.shape) or weight[0, 0].numel() > MAX_TAPS:
        raise UserError(
            f"event-driven convolution: a kernel {list(weight.shape)} has no taps, or more than "
            f"{MAX_TAPS}"
        )
    weight = weight.resolve_neg()
    check_finite({"weight": weight}, "event-driven convolution")
    bits = BITS[precision]
    if bits == 32 or weight[0].numel() > MOST_ROWS:
        return EventWeights(_blocks(_apart(weight.detach(), segments)))
    whole, scales = quantise(weight, bits)
    rows = _interleaved(_apart(whole, segments), bits)
    padded = scales.new_zeros(rows.shape[0] * rows.shape[-1])
    padded[: len(scales)] = scales
    return EventWeights(rows, bits, padded)


def summed_taps(weight: Tensor, y_sums: Sums | None, x_sums: Sums | None) -> Tensor:
    """Return the kernel whose taps are sums of this one's (`kernel_offsets.doubled_taps`).

    Args:
        weight: [C_out, C, h, w].
        y_sums: The taps along h that each tap sums; None keeps them.
        x_sums: The same along w.

    Example:
        >>> kernel = torch.arange(3.0).view(1, 1, 1, 3)
        >>> summed_taps(kernel, None, ((1, 2), (0, 1), (2,), (0,))).flatten().tolist()
        [3.0, 1.0, 2.0, 0.0]
    """
    for axis, sums in ((2, y_sums), (3, x_sums)):
        if sums is not None:
            parts = [weight.index_select(axis, torch.tensor(taps)).sum(axis) for taps in sums]
            weight = torch.stack(parts, axis)
    return weight


def _apart(weight: Tensor, segments: tuple[int, ...]) -> Tensor:
    """Leave room where a segment does not fill its last word: [C_out, C, h, w] -> [., slots, .]."""
    if len(segments) == 1:
        return weight
    slots = slots_of(segments)
    apart = weight.new_zeros(len(weight), int(slots[-1]) + 1, *weight.shape[2:])
    apart[:, slots] = weight
    return apart


def _blocks(weight: Tensor) -> Tensor:
    """Return floats in blocks: [C_out, slots, h, w] -> [blocks, h, w, slots, block]."""
    block = library_of().synapse_block(c_int(32))
    out_channels, slot_count, height, width = weight.shape
    blocks = torch.empty(-(-out_channels // block), height, width, slot_count, block)
    kernel = weight.contiguous(memory_format=torch.channels_last)
    library_of().weights_to_blocks(
        pointer(kernel),
        pointer(blocks),
        *(c_int64(n) for n in (out_channels, height * width, slot_count)),
        c_int(torch.get_num_threads()),
    )
    return blocks


def _interleaved(whole: Tensor, bits: int) -> Tensor:
    """Return whole numbers in blocks, so that sums of twice and four times the width fall in order.

    In a vector, number `part` of the 32-bit lane i is output channel part * lanes + i.

    Args:
        whole: [C_out, slots, h, w].
        bits: Of each.
    """
    library, parts = library_of(), 32 // bits
    block, lanes = library.synapse_block(c_int(bits)), library.synapse_lanes()
    out_channels, slot_count, height, width = whole.shape
    count = -(-out_channels // block)
    padded = whole.new_zeros(count * block, slot_count, height, width)
    padded[:out_channels] = whole ^ (-(2 ** (bits - 1)))  # w + 2^(bits - 1), as it lies in memory
    ordered = padded.view(count, -1, parts, lanes, slot_count, height, width)
    rows = ordered.permute(0, 5, 6, 4, 1, 3, 2)  # [count, h, w, slots, vectors, lanes, parts]
    return rows.reshape(count, height, width, slot_count, block)
