"""The integer neuron's forward and backward pass."""

from torch import Tensor

from spikediff.neurons.dynamics import carry_nan


def forward(v: Tensor, theta: Tensor, bias: Tensor, levels: int) -> Tensor:
    """Return clip(round(v / theta + b), 0, D), and NaN where the current is not finite.

    Args:
        v: Currents [B, C, H, W].
        theta: Thresholds [C] or [1].
        bias: Biases [C] or [1].
        levels: D.
    """
    level = _level(v, theta, bias)
    return carry_nan(level.clamp(0, levels).round_(), level)


def backward(
    grad_count: Tensor, v: Tensor, theta: Tensor, bias: Tensor, levels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return dL/dv [B, C, H, W], dL/dtheta and dL/db, of the shape of `theta`.

    Args:
        grad_count: dL/dcount [B, C, H, W].
        v: Currents of the forward pass.
        theta: Thresholds.
        bias: Biases.
        levels: D.
    """
    level = _level(v, theta, bias)
    inside = grad_count.masked_fill((level < 0) | (level > levels), 0.0)
    grad_v = inside / theta[:, None, None]
    axes = (0, 2, 3) if len(theta) > 1 else (0, 1, 2, 3)
    grad_theta = -(grad_v * v).sum(axes).reshape(theta.shape) / theta
    return grad_v, grad_theta, inside.sum(axes).reshape(theta.shape)


def _level(v: Tensor, theta: Tensor, bias: Tensor) -> Tensor:
    return (v / theta[:, None, None]).add_(bias[:, None, None])
