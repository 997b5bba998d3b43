"""Event-driven convolutions for training on a CPU: forward pass and weight gradient."""

from ctypes import byref, c_int, c_int64
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spikediff.errors import UserError
from spikediff.events.packed import PackedSpikes, pack, slots_of
from spikediff.events.synapse import (
    break_even,
    can_be_event_driven,
    check_outcome,
    event_driven,
    geometry_of,
    offsets_of,
)
from spikediff.events.weights import event_weights
from spikediff.layers import unfold_time
from spikediff.native import check_tensor, library_of, native, pointer

FEWEST_CHANNELS = 32  # narrower layers stay dense


def train_event_driven(model: nn.Module, spiking_steps: int) -> None:
    """Make the convolutions of a model event-driven during training, in place.

    For float32 spikes on a CPU, a convolution adds the weights of the channels that fire, stores
    the spikes as bits, and sums its weight gradient over them. The gradient of its input is
    computed densely, because the surrogate makes it dense. Any other input takes the ordinary path.
    Parameters and their names do not change. Without the compiled kernels, nothing happens.
    """
    if native() is None:
        return
    for module in model.modules():
        if type(module) is nn.Conv2d and can_be_event_driven(module):
            module.__class__ = SpikeConv2d
            module.spiking_steps = spiking_steps  # type: ignore[assignment]


class SpikeConv2d(nn.Conv2d):
    """A `Conv2d` that is event-driven when trained on spikes (`train_event_driven`)."""

    spiking_steps: int

    def forward(self, x: Tensor) -> Tensor:
        """Return the currents [T*B, C_out, H', W'] for x [T*B, C, H, W]."""
        spikes = self._packed(x)
        if spikes is None or spikes.activity > break_even(self.spiking_steps):
            return super().forward(x)
        options = (self.stride, self.padding, self.dilation)
        current: Tensor = _SpikeConvolution.apply(  # type: ignore[no-untyped-call]
            x, self.weight, self.bias, spikes, options
        )
        return current

    def _packed(self, x: Tensor) -> PackedSpikes | None:
        """Return the input as bits if it consists of spikes to train on, else None."""
        usual = (
            not self.training
            or not torch.is_grad_enabled()
            or torch.is_autocast_enabled("cpu")
            or x.device.type != "cpu"
            or x.dtype != torch.float32
            or self.weight.dtype != torch.float32
            or self.in_channels < FEWEST_CHANNELS
            or len(x) % self.spiking_steps != 0
        )
        if usual:
            return None
        window = unfold_time(x.detach(), self.spiking_steps)
        spikes: PackedSpikes | None = pack(window, only_if_binary=True)
        return spikes


class _SpikeConvolution(torch.autograd.Function):
    """(spikes, weight, bias) -> currents; saves bits and the weight."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, spikes: PackedSpikes, options: Any
    ) -> Tensor:
        ctx.save_for_backward(spikes.words, weight)
        ctx.spikes, ctx.options = (spikes.segments, spikes.activity), options
        ctx.shape, ctx.has_bias = x.shape, bias is not None
        rows, columns = offsets_of(spikes, weight, *options)
        packed_weight = event_weights(weight, spikes.segments)
        return event_driven(spikes, packed_weight, bias, len(weight), rows, columns)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        words, weight = ctx.saved_tensors
        stride, padding, dilation = ctx.options
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            placeholder = torch.empty(ctx.shape, memory_format=torch.channels_last)
            grad_x = torch.ops.aten.convolution_backward(
                grad, placeholder, weight, None, stride, padding, dilation, False, [0, 0], 1,
                [True, False, False],
            )[0]  # fmt: skip
        if ctx.needs_input_grad[1]:
            spikes = PackedSpikes(words, *ctx.spikes)
            grad_weight = weight_gradient(spikes, grad, weight, *ctx.options)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            grad_bias = grad.sum((0, 2, 3))
        return grad_x, grad_weight, grad_bias, None, None


def weight_gradient(
    spikes: PackedSpikes, grad: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any
) -> Tensor:
    """Return dL/d(weight) for a shape of the weight, from dL/d(currents) [T*B, C_out, H', W']."""
    rows, columns = offsets_of(spikes, weight, stride, padding, dilation)
    out_channels, channels, height, width = weight.shape
    slots = int(slots_of(spikes.segments)[-1]) + 1
    geometry = geometry_of(spikes, (height, width), slots, out_channels, rows, columns)
    expected = (geometry.steps * geometry.images, out_channels, len(rows), len(columns))
    check_tensor(grad, "weight gradient: grad", torch.float32, expected)
    if channels != spikes.channels:
        raise UserError(f"weight gradient: {spikes.channels} channels, {channels} in weight")
    if geometry.images == 0:
        return torch.zeros_like(weight)
    block = library_of().gradient_block()
    last = grad.detach().resolve_neg().movedim(1, -1).contiguous()  # [T*B, H', W', C_out]
    blocks = grad.new_zeros(-(-out_channels // block), height, width, slots, block)
    failed = library_of().synapse_weight_gradient(
        pointer(spikes.words),
        pointer(last),
        pointer(blocks),
        byref(geometry),
        pointer(rows),
        pointer(columns),
        c_int(torch.get_num_threads()),
    )
    check_outcome(failed)
    return _from_blocks(blocks, out_channels, spikes.segments)


def _from_blocks(blocks: Tensor, out_channels: int, segments: tuple[int, ...]) -> Tensor:
    """Return the kernel: [blocks, h, w, slots, block] -> [C_out, C, h, w], channels-last."""
    _, height, width, slots, _ = blocks.shape
    kernel = torch.empty(out_channels, height, width, slots)
    sizes = map(c_int64, (out_channels, height * width, slots))
    threads = c_int(torch.get_num_threads())
    library_of().weights_from_blocks(pointer(blocks), pointer(kernel), *sizes, threads)
    first = kernel.movedim(-1, 1)  # [C_out, slots, h, w]
    return first if len(segments) == 1 else first[:, slots_of(segments)]
