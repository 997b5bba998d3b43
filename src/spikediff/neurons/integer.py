r"""The integer neuron: it integrates a whole window and emits its spike count at once.

For an input current $v$, a threshold $\theta$ and a bias $b$ of the neuron's channel:

    count = clip(round(v / theta + b), 0, D)

In training a count is one number, so a step costs one pass instead of D. At inference it is D
binary spikes, one graded spike, or an integer, which give the same currents, because every map
between two neurons is linear. The weights after the neuron include the amplitude $\theta$.

Reference: Luo et al., "Integer-valued training and spike-driven inference spiking neural network"
(I-LIF, SpikeYOLO), ECCV 2024; Yao et al., "Scaling spike-driven transformer with efficient spike
firing approximation training", TPAMI 2025.
"""

import math
from ctypes import c_float, c_int, c_int64
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spikediff.errors import check_number
from spikediff.native import check_tensor, library_of, native, pointer
from spikediff.neurons.dynamics import carry_nan
from spikediff.neurons.kernels import choice
from spikediff.neurons.layer import CountNeuron


class _Count(torch.autograd.Function):
    r"""(v, theta, bias) -> count, with the straight-through gradient inside the clip range.

    With $m = 1$ where $0 \le v / \theta + b \le D$, and 0 elsewhere:

        dL/dv = m dL/dcount / theta,  dL/db = sum m dL/dcount,  dL/dtheta = -sum v dL/dv / theta
    """

    @staticmethod
    def forward(ctx: Any, v: Tensor, theta: Tensor, bias: Tensor, levels: int) -> Tensor:
        ctx.save_for_backward(v, theta, bias)
        ctx.levels = levels
        return _forward(v, theta, bias, levels)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_count: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        v, theta, bias = ctx.saved_tensors
        return *_backward(grad_count, v, theta, bias, ctx.levels), None


def count_spikes(v: Tensor, theta: Tensor, bias: Tensor, levels: int) -> Tensor:
    """Return the number of spikes of each neuron in its window: counts 0..D [B, C, H, W].

    v are currents summed over the window [B, C, H, W]; NaN and infinity give NaN. Theta and bias
    are [C], or [1] for all channels; the bias is in units of the threshold.

    Example:
        >>> v = torch.tensor([-1.0, 0.6, 1.4, 9.0]).view(1, 1, 1, 4)
        >>> count_spikes(v, torch.ones(1), torch.zeros(1), levels=4).flatten().tolist()
        [0.0, 1.0, 1.0, 4.0]
    """
    counts: Tensor = _Count.apply(v, theta, bias, levels)  # type: ignore[no-untyped-call]
    return counts


class IntegerNeuron(CountNeuron):
    """A layer of integer neurons (I-LIF), with learned thresholds and biases.

    Args:
        channels: C.
        levels: D, the largest count of a window.
        per_channel: Whether each channel has its own threshold and bias, or the layer has one.

    Shape: currents [B, C, H, W] -> counts [B, C, H, W].

    Example:
        >>> neuron = IntegerNeuron(channels=1, levels=4)  # theta = 0.5
        >>> neuron(torch.tensor([[[[-0.3, 0.3, 1.1, 5.0]]]])).flatten().int().tolist()
        [0, 1, 2, 4]
    """

    def __init__(self, channels: int, levels: int, per_channel: bool = True) -> None:
        super().__init__()
        check_number("IntegerNeuron: levels", levels, 1, whole=True)
        self.levels = levels
        size = channels if per_channel else 1
        self.log_theta = nn.Parameter(torch.full((size,), math.log(2.0 / levels)))
        self.bias = nn.Parameter(torch.zeros(size))

    @property
    def theta(self) -> Tensor:
        """Thresholds, in units of the current: [C] or [1]."""
        return self.log_theta.exp()

    def forward(self, current: Tensor) -> Tensor:
        """Return the counts of a window's currents."""
        return count_spikes(current, self.theta, self.bias, self.levels)

    def potential(self, current: Tensor) -> Tensor:
        """Return v / theta + b [B, C, H, W]."""
        return current / self.theta[:, None, None] + self.bias[:, None, None]

    def fold_amplitude(self, weight: Tensor) -> Tensor:
        """Return the weights [C_out, C, k, k] times the amplitude of their input spikes."""
        return weight * self.theta[:, None, None]

    def extra_repr(self) -> str:
        """Return the constants, for `print(model)`."""
        return f"{self.log_theta.numel()}, levels={self.levels}"


# Plain torch, or one pass in C (`spikediff/native/count_neuron.c`) for float32 on a CPU. Counts and
# gradients of currents have the same bits; gradients of thresholds and biases sum in another order.


def _forward(v: Tensor, theta: Tensor, bias: Tensor, levels: int) -> Tensor:
    """Return clip(round(v / theta + b), 0, D)."""
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


def _backward(
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
    if torch.compiler.is_compiling() or choice.forced() == "reference":
        return False
    on_cpu = v.device.type == "cpu" and v.dtype == torch.float32 and v.layout == torch.strided
    return on_cpu and v.dim() == 4 and v.numel() > 0 and native() is not None


def _without_holes(v: Tensor) -> Tensor:
    x = v.detach().resolve_neg()
    last = x.is_contiguous(memory_format=torch.channels_last)
    return x if last or x.is_contiguous() else x.contiguous()


def _by_channel(x: Tensor, *parameters: Tensor) -> list[object]:
    """Return the address of parameters [C]; those of a whole layer [1] are repeated."""
    wide = [p.detach().resolve_neg().expand(x.shape[1]).contiguous() for p in parameters]
    for p in wide:
        check_tensor(p, "integer neuron: thresholds and biases", torch.float32, (x.shape[1],))
    return [pointer(p) for p in wide]


def _sizes(x: Tensor) -> tuple[object, ...]:
    """Return images, channels, pixels, and whether the layout is channels last."""
    last = not x.is_contiguous()
    return c_int64(len(x)), c_int64(x.shape[1]), c_int64(x[0, 0].numel()), c_int(last)
