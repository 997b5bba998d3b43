"""The integer neuron's forward and backward pass: plain torch, or one pass in C.

The C kernels (`spikediff/native/count_neuron.c`) serve float32 on a CPU. Counts and gradients of
currents have the bits of plain torch; gradients of thresholds and biases sum in another order.
"""

from ctypes import c_float, c_int, c_int64

import torch
from torch import Tensor

from spikediff.native import check_tensor, library_of, native, pointer
from spikediff.neurons.dynamics import carry_nan
from spikediff.neurons.kernels.choice import forced


def forward(v: Tensor, theta: Tensor, bias: Tensor, levels: int) -> Tensor:
    """Return clip(round(v / theta + b), 0, D); see `spikediff.neurons.count_spikes`."""
    if not _suits(v):
        level = _level(v, theta, bias)
        return carry_nan(level.clamp(0, levels).round_(), level)
    x = _without_holes(v)
    count = torch.empty_like(x)
    library_of().count_neuron_forward(
        pointer(x),
        *_by_channel(x, theta, bias),
        pointer(count),
        *_sizes(x),
        c_float(levels),
        c_int(torch.get_num_threads()),
    )
    return count


def backward(
    grad_count: Tensor, v: Tensor, theta: Tensor, bias: Tensor, levels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return dL/dv [B, C, H, W], dL/dtheta and dL/db, of the shape of `theta`."""
    if not (_suits(v) and grad_count.dtype == v.dtype):
        return _backward_in_torch(grad_count, v, theta, bias, levels)
    x = _without_holes(v)
    above = grad_count
    if above.stride() != x.stride():
        above = torch.empty_like(x).copy_(grad_count)
    grad_v, sums = torch.empty_like(x), x.new_empty(len(x), 2, x.shape[1])
    library_of().count_neuron_backward(
        pointer(above),
        pointer(x),
        *_by_channel(x, theta, bias),
        pointer(grad_v),
        pointer(sums),
        *_sizes(x),
        c_float(levels),
        c_int(torch.get_num_threads()),
    )
    of_theta, of_bias = sums.sum(0)  # each [C]
    if len(theta) == 1:
        of_theta, of_bias = of_theta.sum(0, keepdim=True), of_bias.sum(0, keepdim=True)
    return grad_v, -of_theta / theta, of_bias


def _backward_in_torch(
    grad_count: Tensor, v: Tensor, theta: Tensor, bias: Tensor, levels: int
) -> tuple[Tensor, Tensor, Tensor]:
    level = _level(v, theta, bias)
    inside = grad_count.masked_fill((level < 0) | (level > levels), 0.0)
    grad_v = inside / theta[:, None, None]
    axes = (0, 2, 3) if len(theta) > 1 else (0, 1, 2, 3)
    grad_theta = -(grad_v * v).sum(axes).reshape(theta.shape) / theta
    return grad_v, grad_theta, inside.sum(axes).reshape(theta.shape)


def _level(v: Tensor, theta: Tensor, bias: Tensor) -> Tensor:
    return (v / theta[:, None, None]).add_(bias[:, None, None])


def _suits(v: Tensor) -> bool:
    """Return whether the C kernels are there, and compute this."""
    if torch.compiler.is_compiling() or forced() == "reference":
        return False
    on_cpu = v.device.type == "cpu" and v.dtype == torch.float32 and v.layout == torch.strided
    return on_cpu and v.dim() == 4 and v.numel() > 0 and native() is not None


def _without_holes(v: Tensor) -> Tensor:
    x = v.detach().resolve_neg()
    last = x.is_contiguous(memory_format=torch.channels_last)
    return x if last or x.is_contiguous() else x.contiguous()


def _by_channel(x: Tensor, *parameters: Tensor) -> list[object]:
    """Return where parameters [C] lie, those of a layer [1] repeated."""
    wide = [p.detach().resolve_neg().expand(x.shape[1]).contiguous() for p in parameters]
    for p in wide:
        check_tensor(p, "integer neuron: thresholds and biases", torch.float32, (x.shape[1],))
    return [pointer(p) for p in wide]


def _sizes(x: Tensor) -> tuple[object, ...]:
    """Return images, channels, pixels, and whether channels lie last."""
    last = not x.is_contiguous()
    return c_int64(len(x)), c_int64(x.shape[1]), c_int64(x[0, 0].numel()), c_int(last)
