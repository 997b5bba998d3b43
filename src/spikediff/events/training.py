"""Event-driven convolutions in training: forward and weight gradient by events, on a CPU."""

from ctypes import byref, c_int
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spikediff.errors import UserError
from spikediff.events.packed import PackedSpikes, pack, slots_of
from spikediff.events.synapse import (
    Geometry,
    break_even,
    can_be_event_driven,
    check_outcome,
    check_tables,
    event_driven,
    kernel_of,
    taps_of,
)
from spikediff.events.weights import event_weights
from spikediff.layers import unfold_time
from spikediff.native import check_tensor, library_of, native, pointer

FEWEST_CHANNELS = 32  # narrower layers are left to the dense convolution


def train_event_driven(model: nn.Module, spiking_steps: int) -> None:
    """Let the convolutions of a model compute by events in training, in place.

    A convolution that is given spikes on a CPU in float32 adds the weights of what fired, keeps
    the spikes as bits, and sums its weights' gradient over what fired; the gradient of its input,
    which the surrogate makes dense, stays dense. What it is given otherwise goes the usual way.
    Parameters and their names do not change. Without the compiled kernels nothing happens.

    Args:
        model: Any network of this library.
        spiking_steps: T, whose steps are computed together.
    """
    if native() is None:
        return
    for module in model.modules():
        if type(module) is nn.Conv2d and can_be_event_driven(module):
            module.__class__ = SpikeConv2d
            module.spiking_steps = spiking_steps  # type: ignore[assignment]


class SpikeConv2d(nn.Conv2d):
    """A `Conv2d` that computes by events where it is trained on spikes (`train_event_driven`)."""

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
        """Return the input as bits if it is spikes that are trained on, else None."""
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
        spikes: PackedSpikes | None = pack(
            unfold_time(x.detach(), self.spiking_steps), only_if_binary=True
        )
        return spikes


class _SpikeConvolution(torch.autograd.Function):
    """(spikes, weight, bias) -> currents; keeps bits and the weight."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, spikes: PackedSpikes, options: Any
    ) -> Tensor:
        ctx.save_for_backward(spikes.words, weight)
        ctx.spikes, ctx.options, ctx.has_bias = (spikes.segments, spikes.activity), options, bias
        ctx.shape, ctx.has_bias = x.shape, bias is not None
        rows, columns = taps_of(spikes, weight, *options)
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
    """Return dL/d(weight) of a convolution of spikes, summed over what fired.

    Args:
        spikes: The window that was convolved.
        grad: dL/d(currents) [T*B, C_out, H', W'].
        weight: [C_out, C, h, w]; only its shape matters.
        stride: As of the convolution, and so are the others.
        padding: Of both axes.
        dilation: Of both axes.
    """
    steps, batch, height, width, _ = spikes.words.shape
    rows, columns = taps_of(spikes, weight, stride, padding, dilation)
    out_channels, _, taps_y, taps_x = weight.shape
    check_tables(rows, columns)
    expected = (steps * batch, out_channels, len(rows), len(columns))
    check_tensor(grad, "weight gradient: grad", torch.float32, expected)
    if weight.shape[1] != spikes.channels:
        raise UserError(f"weight gradient: {spikes.channels} channels, {weight.shape[1]} in weight")
    if batch == 0:
        return torch.zeros_like(weight)
    block = library_of().gradient_block()
    blocks, slot_count = -(-out_channels // block), int(slots_of(spikes.segments)[-1]) + 1
    last = grad.detach().resolve_neg().movedim(1, -1).contiguous()  # [T*B, H', W', C_out]
    packed = grad.new_zeros(blocks, taps_y, taps_x, slot_count, block)
    geometry = Geometry(
        steps, batch, height, width, slot_count, len(rows), len(columns), out_channels,
        taps_y, taps_x, rows.shape[1], columns.shape[1],
    )  # fmt: skip
    failed = library_of().synapse_weight_gradient(
        pointer(spikes.words),
        pointer(last),
        pointer(packed),
        byref(geometry),
        pointer(rows),
        pointer(columns),
        c_int(torch.get_num_threads()),
    )
    check_outcome(failed)
    return kernel_of(packed, out_channels, spikes.segments)
