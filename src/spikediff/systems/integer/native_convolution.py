"""Convolutions of counts by the C kernels (`spikediff/native/count_synapse.c`), on a CPU."""

from ctypes import byref, c_int, c_int64

import torch
from torch import Tensor

from spikediff.native import check_tensor, library_of, pointer
from spikediff.systems.integer.plan import (
    QUAD,
    Layout,
    Network,
    Outlet,
    SynapseLayer,
    finish,
    has_kernels,
    padded,
    prepacked,
    sources,
)

MOST_COUNT = 127  # so that a change has a sign, and sums of two products have 16 bits


def suits(counts: Tensor, *before: Tensor) -> bool:
    """Return whether the kernels are there, and take these counts."""
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
    """Return the sums [B, C_out, H', W'], int32, of counts times weights.

    Args:
        counts: [B, C, H, W], uint8, at most `MOST_COUNT`.
        weight: [C_out, C, k, k], int8.
        stride: Of both axes.
        padding: Silent pixels around the image.
        way: `DENSE`, or `EVENTS`, which adds to the sums of before.
        before: Earlier counts and their sums; None is silence.

    Raises:
        UserError: A tensor has another type or shape.
    """
    images, channels, height, width = counts.shape
    check_tensor(counts, "count convolution: counts", torch.uint8, (None,) * 4)
    check_tensor(weight, "count convolution: weight", torch.int8, (None, channels, None, None))
    table, out_height, out_width = sources(height, width, weight.shape[-1], stride, False, padding)
    wide, out_wide, pixels = padded(channels), padded(len(weight)), height * width
    shown = torch.zeros(images, pixels + 1, wide, dtype=torch.uint8)  # the last pixel is silent
    shown[:, :-1, :channels] = _channels_last(counts)
    state = torch.zeros(images, pixels * wide + 4 * len(table) * out_wide, dtype=torch.uint8)
    sums = state[:, pixels * wide :].view(torch.int32).view(images, -1, out_wide)
    if before is not None:
        earlier, kept = before
        check_tensor(earlier, "count convolution: earlier counts", torch.uint8, counts.shape)
        shape = (images, len(weight), out_height, out_width)
        check_tensor(kept, "count convolution: sums", torch.int32, shape)
        state[:, : pixels * wide].view(images, pixels, wide)[..., :channels] = _channels_last(
            earlier
        )
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
