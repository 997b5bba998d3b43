"""The integer neuron's forward and backward pass."""

import torch
from torch import Tensor


def forward(v: Tensor, theta: Tensor, bias: Tensor, levels: int) -> Tensor:
    """Return clip(round(v / theta + b), 0, D).

    Args:
        v: Currents [B, C, H, W].
        theta: Thresholds [C] or [1].
        bias: Biases [C] or [1].
        levels: D.
    """
    return _level(v, theta, bias).clamp(0, levels).round()


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
    inside = torch.where((level >= 0) & (level <= levels), grad_count, 0.0)
    grad_v = inside / theta[:, None, None]
    axes = (0, 2, 3) if len(theta) > 1 else (0, 1, 2, 3)
    grad_theta = -(grad_v * v).sum(axes).reshape(theta.shape) / theta
    return grad_v, grad_theta, inside.sum(axes).reshape(theta.shape)


def _level(v: Tensor, theta: Tensor, bias: Tensor) -> Tensor:
    return v / theta[:, None, None] + bias[:, None, None]
