"""Event-driven convolutions: only the weights of channels that fire are added."""

import ctypes
import math
from collections.abc import Sequence
from ctypes import byref, c_int, c_int64
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d

from spikediff.errors import UserError, shown
from spikediff.events.kernel_offsets import (
    Sums,
    convolution_offsets,
    doubled_offsets,
    transposed_offsets,
)
from spikediff.events.packed import PackedSpikes, pack, slots_of
from spikediff.events.weights import (
    MAX_OFFSETS,
    EventWeights,
    Precision,
    event_weights,
    sum_offsets,
)
from spikediff.layers.batch_invariant import never_alone
from spikediff.layers.time import unfold_time
from spikediff.native import WORD, check_tensor, library_of, pointer

# Activity above which a dense convolution is at least as fast, by the number of spiking steps
# processed together (measured in docs/performance.md); from three on it is always slower.
BREAK_EVEN = {1: 0.4, 2: 0.8}


class EventConv2d(nn.Module):
    """A convolution, possibly transposed, that is event-driven for packed spikes.

    Currents, and images whose activity is above break-even, use the dense convolution with the
    original weights. The choice is made per image, so the rounding does not depend on the batch.
    The convolution must have one group and zero padding.

    Shape: [T*B, C_in, H, W] -> [T*B, C_out, H', W'], channels-last.
    """

    def __init__(
        self, conv: nn.Conv2d | nn.ConvTranspose2d, precision: Precision = "float32"
    ) -> None:
        super().__init__()
        self.precision: Precision = precision
        self.transposed = isinstance(conv, nn.ConvTranspose2d)
        self.out_channels = conv.out_channels
        self.kernel_size = conv.kernel_size
        self.options: dict[str, Any] = {
            "stride": conv.stride,
            "padding": conv.padding,
            "dilation": conv.dilation,
        }
        if self.transposed:
            self.options["output_padding"] = conv.output_padding
        weight = conv.weight.detach().contiguous(memory_format=torch.channels_last)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach(), False)
        self._events: dict[Any, EventWeights] = {}  # by segments and sums of offsets

    def forward(self, x: PackedSpikes | Tensor) -> Tensor:
        """Return the currents."""
        if not isinstance(x, PackedSpikes):
            return self._convolve(x)
        busy = self._busy_images(x)  # [B]
        if len(busy) and busy.all():
            return self._convolve(x.dense())
        x = x.repeated() if self.transposed else x
        (rows, y_sums), (columns, x_sums) = (
            self._offsets(axis, x.words.shape[axis + 2], x.doubled) for axis in (0, 1)
        )
        weights = self._weights(x.segments, y_sums, x_sums)
        out = event_driven(x, weights, self.bias, self.out_channels, rows, columns)
        if busy.any():
            dense = self._convolve(x.images(busy).dense())
            unfold_time(out, x.spiking_steps)[:, busy] = unfold_time(dense, x.spiking_steps)
        return out

    def _convolve(self, x: Tensor) -> Tensor:
        convolve = conv_transpose2d if self.transposed else conv2d
        return never_alone(lambda x: convolve(x, self.weight, self.bias, **self.options), x)

    def _busy_images(self, x: PackedSpikes) -> Tensor:
        """Return the images [B] to convolve densely; none with integer weights."""
        most = break_even(x.spiking_steps)
        if most >= 1.0 or self.precision != "float32":
            return torch.zeros(x.words.shape[1], dtype=torch.bool)
        return x.activity_by_image() > most

    def _offsets(self, axis: int, size: int, doubled: bool) -> tuple[Tensor, Sums | None]:
        """Return the offset table of an axis, and the sums of kernel offsets, if any."""
        options = {key: value[axis] for key, value in self.options.items()}
        if doubled:
            return doubled_offsets(size, self.kernel_size[axis], **options)
        table = transposed_offsets if self.transposed else convolution_offsets
        return table(size, self.kernel_size[axis], **options), None

    def _weights(
        self, segments: tuple[int, ...], y_sums: Sums | None, x_sums: Sums | None
    ) -> EventWeights:
        key = (segments, y_sums, x_sums)
        if key not in self._events:
            kernel = self.weight.transpose(0, 1) if self.transposed else self.weight
            kernel = sum_offsets(kernel, y_sums, x_sums)
            self._events[key] = event_weights(kernel, segments, self.precision)
        return self._events[key]


def break_even(spiking_steps: int) -> float:
    """Return the activity above which a dense convolution is not slower; 1 if there is none."""
    return BREAK_EVEN.get(spiking_steps, 1.0)


def can_be_event_driven(module: nn.Module) -> bool:
    """Return whether `EventConv2d` supports a module."""
    return (
        isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
        and module.groups == 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and math.prod(module.kernel_size) <= MAX_OFFSETS
        and module.weight.dtype == torch.float32
    )


def spike_conv2d(
    spikes: PackedSpikes | Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
) -> Tensor:
    """Convolve a window of spikes event by event; every call packs the spikes and weights.

    The spikes are packed, or dense [T, B, C, H, W] with values 0 and 1. The kernel is
    [C_out, C, h, w], float32. The result is currents [T, B, C_out, H', W'].

    Example:
        >>> spikes = (torch.rand(4, 1, 3, 5, 5) < 0.2).float()
        >>> weight = torch.randn(2, 3, 3, 3)
        >>> dense = conv2d(spikes.flatten(0, 1), weight, padding=1).view(4, 1, 2, 5, 5)
        >>> torch.allclose(spike_conv2d(spikes, weight, padding=1), dense, atol=1e-5)
        True
    """
    for name, value in (("stride", stride), ("padding", padding)):
        if type(value) is not int:  # the cache of tables treats 1.0 and True as 1
            raise UserError(f"spike_conv2d: {name} = {shown(value)} must be a whole number")
    window = _window(spikes)
    events = event_weights(weight, window.segments)
    rows, columns = offsets_of(window, weight, [stride] * 2, [padding] * 2, [1, 1])
    out = event_driven(window, events, bias, len(weight), rows, columns)
    return out.view(window.spiking_steps, -1, *out.shape[1:])


def _window(spikes: PackedSpikes | Tensor) -> PackedSpikes:
    """Return a window with words for every pixel and no bits after the last channel."""
    if not isinstance(spikes, PackedSpikes):
        packed: PackedSpikes | None = pack(spikes, only_if_binary=True)
        if packed is None:
            raise UserError("spike_conv2d: spikes must be 0 or 1; conv2d takes other numbers")
        return packed
    used = torch.zeros(WORD * spikes.words.shape[-1], dtype=torch.bool)
    used[slots_of(spikes.segments)] = True
    bits = used.view(-1, WORD).long() << torch.arange(WORD)  # [words, 64]
    if (spikes.words & ~bits.sum(-1)).any():
        raise UserError("spike_conv2d: PackedSpikes have bits where there is no channel")
    return spikes.repeated()


def offsets_of(
    spikes: PackedSpikes,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Return the offset tables of a convolution [C_out, C, h, w] along height and width."""
    rows, columns = (
        convolution_offsets(size, weight.shape[2 + i], stride[i], padding[i], dilation[i])
        for i, size in enumerate(spikes.shape[-2:])
    )
    return rows, columns


def event_driven(
    spikes: PackedSpikes,
    weights: EventWeights,
    bias: Tensor | None,
    channels: int,
    rows: Tensor,
    columns: Tensor,
) -> Tensor:
    """Return the currents [T*B, C_out, H', W'] caused by spikes, channels-last.

    Weights come from `event_weights`; rows and columns are the offset tables along height and
    width.
    """
    blocks, height, width, slots, block = weights.rows.shape
    kinds = {32: torch.float32, 16: torch.int16, 8: torch.int8}
    shape = (blocks, height, width, int(slots_of(spikes.segments)[-1]) + 1, block)
    check_tensor(weights.rows, "event-driven convolution: weights", kinds[weights.bits], shape)
    if not 0 < channels <= blocks * block or block != library_of().synapse_block(weights.bits):
        raise UserError(f"event-driven convolution: no weights of {channels} output channels")
    if weights.bits < 32:
        check_tensor(
            weights.scales, "event-driven convolution: scales", torch.float32, (blocks * block,)
        )
    padded = torch.zeros(blocks * block)
    if bias is not None:
        check_tensor(bias, "event-driven convolution: bias", torch.float32, (channels,))
        padded[:channels] = bias
    geometry = geometry_of(spikes, (height, width), slots, channels, rows, columns)
    if geometry.images == 0:
        return torch.empty(0, channels, len(rows), len(columns))
    out = torch.empty(geometry.steps * geometry.images, len(rows), len(columns), channels)
    failed = library_of().synapse_forward(
        pointer(spikes.words),
        pointer(weights.rows),
        c_int(weights.bits),
        pointer(weights.scales),
        pointer(padded),
        pointer(out),
        byref(geometry),
        pointer(rows),
        pointer(columns),
        c_int(torch.get_num_threads()),
    )
    check_outcome(failed)
    return out.movedim(-1, 1)


class Geometry(ctypes.Structure):
    """The fields of `geometry` in synapse.h."""

    _names = (
        "steps images height width channels out_height out_width out_channels taps_y taps_x "
        "most_taps_y most_taps_x"
    )
    _fields_ = [(name, c_int64) for name in _names.split()]


def geometry_of(
    spikes: PackedSpikes,
    kernel: tuple[int, int],
    slots: int,
    out_channels: int,
    rows: Tensor,
    columns: Tensor,
) -> Geometry:
    """Return the sizes of a convolution of spikes, after checking its offset tables."""
    for table in (rows, columns):
        check_tensor(table, "event-driven convolution: offsets", torch.int32, (None, None, 2))
        if not table.numel() or not table.is_contiguous():
            raise UserError("event-driven convolution: a table of offsets is empty or has holes")
    steps, batch, height, width, _ = spikes.words.shape
    out = (len(rows), len(columns), out_channels)
    most = (rows.shape[1], columns.shape[1])
    return Geometry(steps, batch, height, width, slots, *out, *kernel, *most)


def check_outcome(failed: int) -> None:
    """Raise the error that a C kernel returned."""
    if failed == -2:
        raise UserError("event-driven convolution: the offsets do not fit this window and kernel")
    if failed:
        raise MemoryError("event-driven convolution: no memory for the lists of active channels")
