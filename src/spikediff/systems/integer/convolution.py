"""Convolutions of integers, exact in any order of summation: the operators of the deployment form.

Weights are int8 (int16 for the stem), counts uint8, the fixed-point image int16, sums int32. Plain
torch defines the operators; the C kernels (`spikediff/native/count_synapse.c`) give the same bits.
The energy meter sees an operator's inputs, whichever kernel computes it.
"""

from collections.abc import Callable
from ctypes import byref, c_int, c_int64
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from spikediff.errors import UserError
from spikediff.native import library_of, pointer
from spikediff.neurons import takes_operations
from spikediff.systems.integer.plan import QUAD, Layout, has_kernels, padded, prepacked, sources
from spikediff.systems.integer.structures import (
    DENSE,
    EVENTS,
    Network,
    Outlet,
    SynapseLayer,
    finish,
)

MOST_COUNT = 127  # so that a change has a sign, and sums of two products have 16 bits


def suits(counts: Tensor, *before: Tensor) -> bool:
    """Return whether the kernels exist and support these counts."""
    return (
        has_kernels()
        and counts.device.type == "cpu"
        and counts.numel() > 0
        and all(int(x.max()) <= MOST_COUNT for x in (counts, *before))
    )


def native_sums(
    counts: Tensor,
    weight: Tensor,
    stride: int,
    padding: int,
    way: int,
    before: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return the sums [B, C_out, H', W'], int32, of counts times weights, by the C kernels.

    The arguments are those of `count_conv2d`, with counts of at most `MOST_COUNT`. `way` is
    `DENSE` or `EVENTS`; `before`, earlier counts and their sums, makes `EVENTS` add to them.
    """
    images, channels, height, width = counts.shape
    table, out_height, out_width = sources(height, width, weight.shape[-1], stride, False, padding)
    wide, out_wide, pixels = padded(channels), padded(len(weight)), height * width
    shown = torch.zeros(images, pixels + 1, wide, dtype=torch.uint8)  # the last pixel is silent
    shown[:, :-1, :channels] = _channels_last(counts)
    state = torch.zeros(images, pixels * wide + 4 * len(table) * out_wide, dtype=torch.uint8)
    sums = state[:, pixels * wide :].view(torch.int32).view(images, -1, out_wide)
    if before is not None:
        earlier, kept = before
        counts_before = state[:, : pixels * wide].view(images, pixels, wide)
        counts_before[..., :channels] = _channels_last(earlier)
        sums[..., : len(weight)] = _channels_last(kept)
    layout, packed = Layout(), prepacked(weight, (channels,))
    zeros = torch.zeros(out_wide, dtype=torch.int32)
    out = Outlet(layout.at(zeros), channels=out_wide, residual=-1, current=-1)
    layer = SynapseLayer(
        layout.at(table), layout.at(packed), layout.at(packed.view(torch.uint8) ^ 128),
        height, width, False, weight.shape[-1], stride, padding, out_height, out_width,
        wide // QUAD, 0, 0, pixels * wide, way, out,
    )  # fmt: skip
    threads = min(torch.get_num_threads(), images)
    network = Network(state_bytes=state.shape[1])
    finish(network, [layer])
    size = library_of().integer_network_bytes(byref(network))
    library_of().integer_convolution(
        byref(network),
        pointer(shown),
        c_int64(shown[0].numel()),
        pointer(torch.empty(threads, size, dtype=torch.uint8)),
        pointer(state),
        c_int64(images),
        c_int(threads),
    )
    return sums[..., : len(weight)].transpose(1, 2).reshape(images, -1, out_height, out_width)


def _channels_last(x: Tensor) -> Tensor:
    """Return [B, C, H, W] as [B, H * W, C]."""
    return x.flatten(2).transpose(1, 2)


# Integers up to here are exact in float32, and so is every sum of them that stays below it.
EXACT_IN_FLOAT32 = 2**24


@torch.library.custom_op("spikediff::count_conv2d", mutates_args=())
def count_conv2d(counts: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Return the sums [B, C_out, H', W'], int32, of spike counts times weights.

    Counts [B, C, H, W] are uint8, weights [C_out, C, k, k] int8; the padding is silent.
    """
    _check(counts, weight, stride, padding)
    if suits(counts):
        return native_sums(counts, weight, stride, padding, DENSE)
    return _convolve(counts, weight, stride, padding)


@torch.library.custom_op("spikediff::fixed_point_conv2d", mutates_args=())
def fixed_point_conv2d(image: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Return the sums of an image [B, C, H, W], int16, times weights; see `count_conv2d`."""
    return _convolve(image, weight, stride, padding)


@torch.library.custom_op("spikediff::event_conv2d", mutates_args=())
def event_conv2d(counts: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Return the sums of `count_conv2d`, computed by adding the weights of spikes."""
    _check(counts, weight, stride, padding)
    if suits(counts):
        return native_sums(counts, weight, stride, padding, EVENTS)
    sums = silence(counts, weight, stride, padding)
    return _add_events(sums, counts.to(torch.int32), weight, stride, padding)


@torch.library.custom_op("spikediff::change_conv2d", mutates_args=())
def change_conv2d(
    counts: Tensor, before: Tensor, sums: Tensor, weight: Tensor, stride: int, padding: int
) -> Tensor:
    """Return the sums of `count_conv2d` by adding only the changes since earlier counts.

    `before` [B, C, H, W] are the earlier counts, `sums` [B, C_out, H', W'] their sums.
    """
    _check(counts, weight, stride, padding)
    _check_before(counts, before, sums, _fake_sums(counts, weight, stride, padding))
    if suits(counts, before):
        return native_sums(counts, weight, stride, padding, EVENTS, (before, sums))
    changes = counts.to(torch.int32) - before.to(torch.int32)
    return _add_events(sums.clone(), changes, weight, stride, padding)


@torch.library.custom_op("spikediff::to_fixed_point", mutates_args=())
def to_fixed_point(image: Tensor, fraction_bits: int) -> Tensor:
    """Return an image as multiples of 2^-fraction_bits, int16, clipped to their range."""
    return _to_fixed_point(image, fraction_bits)


@torch.library.custom_op("spikediff::from_fixed_point", mutates_args=())
def from_fixed_point(x: Tensor, fraction_bits: int) -> Tensor:
    """Return multiples of 2^-fraction_bits as float32."""
    return _from_fixed_point(x, fraction_bits)


def _to_fixed_point(image: Tensor, fraction_bits: int) -> Tensor:
    scaled = image.double() * 2.0**fraction_bits
    return scaled.round().clamp(-(2**15), 2**15 - 1).to(torch.int16)


def _from_fixed_point(x: Tensor, fraction_bits: int) -> Tensor:
    return (x.double() * 2.0**-fraction_bits).float()


def _conv2d(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    return F.conv2d(x.double(), weight.double(), None, stride, padding).to(torch.int32)


def _conv2d_of_changes(
    counts: Tensor, before: Tensor, sums: Tensor, weight: Tensor, stride: int, padding: int
) -> Tensor:
    return sums + _conv2d(counts.to(torch.int32) - before, weight, stride, padding)


_OPERATIONS: dict[Any, Callable[..., Tensor]] = {
    count_conv2d: _conv2d,
    event_conv2d: _conv2d,
    fixed_point_conv2d: _conv2d,
    change_conv2d: _conv2d_of_changes,
    to_fixed_point: _to_fixed_point,
    from_fixed_point: _from_fixed_point,
}


def apply(operator: Any, *arguments: Any) -> Tensor:
    """Return an operator's result; inside `as_operations`, by torch's own operations."""
    if takes_operations():
        return _OPERATIONS[operator](*arguments)
    result: Tensor = operator(*arguments)
    return result


def _check(counts: Tensor, weight: Tensor, stride: int, padding: int) -> None:
    shapes = counts.dim() == weight.dim() == 4 and counts.shape[1] == weight.shape[1]
    types = (counts.dtype, weight.dtype) == (torch.uint8, torch.int8)
    dense = counts.layout == weight.layout == torch.strided and counts.device == weight.device
    if not (shapes and types and dense):
        raise UserError(
            f"count convolution: takes dense counts [B, C, H, W], uint8, and weights "
            f"[C_out, C, k, k], int8, not {counts.dtype} {list(counts.shape)} and {weight.dtype} "
            f"{list(weight.shape)}"
        )
    height, width = weight.shape[2:]
    places = [_places(n, height, max(stride, 1), padding) for n in counts.shape[2:]]
    if (
        stride < 1
        or padding < 0
        or min(*places, *weight.shape, *counts.shape[1:]) < 1
        or height != width
    ):
        raise UserError(
            f"count convolution: no room for a kernel {list(weight.shape)} in "
            f"{list(counts.shape)}, with stride {stride} and padding {padding}"
        )


def _check_before(counts: Tensor, before: Tensor, sums: Tensor, like: Tensor) -> None:
    for what, x, want in (("counts", before, counts), ("sums", sums, like)):
        if (x.shape, x.dtype, x.layout) != (want.shape, want.dtype, want.layout):
            raise UserError(
                f"change convolution: the earlier {what} must be dense {want.dtype} "
                f"{list(want.shape)}, not {x.layout} {x.dtype} {list(x.shape)}"
            )


def _fake_sums(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    height, width = (_places(n, weight.shape[-1], stride, padding) for n in x.shape[2:])
    return x.new_empty((len(x), len(weight), height, width), dtype=torch.int32)


count_conv2d.register_fake(_fake_sums)
fixed_point_conv2d.register_fake(_fake_sums)
event_conv2d.register_fake(_fake_sums)
change_conv2d.register_fake(lambda _counts, _before, sums, *_: torch.empty_like(sums))
to_fixed_point.register_fake(lambda image, _: torch.empty_like(image, dtype=torch.int16))
from_fixed_point.register_fake(lambda x, _: torch.empty_like(x, dtype=torch.float32))


def _convolve(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Convolve in a floating-point type wide enough that no sum is rounded."""
    largest = torch.iinfo(x.dtype).max * int(weight.abs().sum((1, 2, 3), dtype=torch.int64).max())
    exact = torch.float32 if largest < EXACT_IN_FLOAT32 else torch.float64
    if x.dtype == torch.uint8 and x.device.type == "cpu":
        most = int(x.max()) if x.numel() else 0
        exact = torch.float32 if largest // 255 * most < EXACT_IN_FLOAT32 else torch.float64
    return F.conv2d(x.to(exact), weight.to(exact), None, stride, padding).to(torch.int32)


def silence(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Return the sums of counts that are all 0."""
    return torch.zeros_like(_fake_sums(x, weight, stride, padding))


def _add_events(sums: Tensor, events: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Add the weights of events [B, C, H, W], int32 of either sign, to sums; return the sums."""
    image, channel, row, column = events.nonzero(as_tuple=True)  # each [N]
    amounts = events[image, channel, row, column]
    flat = sums.permute(0, 2, 3, 1).contiguous()  # [B, H', W', C_out]
    targets = flat.view(-1, flat.shape[-1])
    for dy in range(weight.shape[2]):
        for dx in range(weight.shape[3]):
            y, x = row + padding - dy, column + padding - dx  # stride times the target's place
            reaches = (
                (y >= 0) & (x >= 0) & (y % stride == 0) & (x % stride == 0)
                & (y // stride < flat.shape[1]) & (x // stride < flat.shape[2])
            )  # fmt: skip
            place = (image * flat.shape[1] + y // stride) * flat.shape[2] + x // stride
            rows = weight[:, :, dy, dx].t()[channel[reaches]].to(torch.int32)  # [N', C_out]
            targets.index_add_(0, place[reaches], rows * amounts[reaches, None])
    return flat.permute(0, 3, 1, 2)


def _places(size: int, kernel: int, stride: int, padding: int) -> int:
    return (size + 2 * padding - kernel) // stride + 1
