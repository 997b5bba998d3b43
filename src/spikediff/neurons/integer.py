r"""The integer neuron: it integrates a whole window and emits its spike count at once.

For an input current $v$, a threshold $\theta$ and a bias $b$ of the neuron's channel:

    count = clip(round(v / theta + b), 0, D)

In training a count is one number, so a step costs one pass instead of D. At inference it is D
binary spikes, one graded spike, or an integer, which give the same currents, because every map
between two neurons is linear. The weights behind the neuron hold the amplitude $\theta$.

Reference: Luo et al., "Integer-valued training and spike-driven inference spiking neural network"
(I-LIF, SpikeYOLO), ECCV 2024; Yao et al., "Scaling spike-driven transformer with efficient spike
firing approximation training", TPAMI 2025.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spikediff.errors import UserError
from spikediff.neurons.emitter import CountNeuron
from spikediff.neurons.kernels import integer as kernel


class _Count(torch.autograd.Function):
    r"""(v, theta, bias) -> count, with the straight-through gradient inside the clip range.

    With $m = 1$ where $0 \le v / \theta + b \le D$, and 0 elsewhere:

        dL/dv = m dL/dcount / theta,  dL/db = sum m dL/dcount,  dL/dtheta = -sum v dL/dv / theta
    """

    @staticmethod
    def forward(ctx: Any, v: Tensor, theta: Tensor, bias: Tensor, levels: int) -> Tensor:
        ctx.save_for_backward(v, theta, bias)
        ctx.levels = levels
        return kernel.forward(v, theta, bias, levels)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_count: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        v, theta, bias = ctx.saved_tensors
        return *kernel.backward(grad_count, v, theta, bias, ctx.levels), None


def count_spikes(v: Tensor, theta: Tensor, bias: Tensor, levels: int) -> Tensor:
    """Return how many spikes each neuron emits in its window: counts 0..D [B, C, H, W].

    Args:
        v: Currents, summed over the window [B, C, H, W]; NaN and infinity give NaN.
        theta: Thresholds, positive: [C], or [1] for one threshold in all channels.
        bias: Biases in units of a threshold, of the shape of `theta`.
        levels: D, the largest count.

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

    Raises:
        UserError: `levels` is below 1.

    Example:
        >>> neuron = IntegerNeuron(channels=1, levels=4)  # theta = 0.5
        >>> neuron(torch.tensor([[[[-0.3, 0.3, 1.1, 5.0]]]])).flatten().int().tolist()
        [0, 1, 2, 4]
    """

    def __init__(self, channels: int, levels: int, per_channel: bool = True) -> None:
        super().__init__()
        if levels < 1:
            raise UserError(f"IntegerNeuron: levels = {levels} must be at least 1 spike per window")
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
        """Return the weights [C_out, C, k, k] times the amplitude of the spikes that they see."""
        return weight * self.theta[:, None, None]

    def extra_repr(self) -> str:
        """Return the constants, for `print(model)`."""
        return f"{self.log_theta.numel()}, levels={self.levels}"
