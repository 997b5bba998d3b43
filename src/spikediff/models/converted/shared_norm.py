"""Group norm whose statistics the spiking steps share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spikediff.layers import fold_time, unfold_time


class SharedGroupNorm(nn.Module):
    r"""Group norm by the statistics of the window's mean, the same at every spiking step.

    $y[n] = \gamma\,(x[n] - \mu(\bar x)) / \sqrt{\sigma^2(\bar x) + \epsilon} + \beta$ with
    $\bar x = \frac{1}{T}\sum_n x[n]$. It is linear in the window, so that
    $\overline{y} = GN(\bar x)$: the norm of the network that was converted, exactly. A norm of its
    own at every step divides by the step's deviation, which the spikes' variation inflates; the
    error that this leaves does not vanish however many steps there are.

    It must know the whole window before its first step, and its statistics depend on the image: no
    neuromorphic chip runs it as accumulates.

    Args:
        groups: Number of groups.
        channels: Number of channels.
        eps: Added to the variance.
        spiking_steps: T.

    Shape: [T*B, C, H, W] -> [T*B, C, H, W].

    Example:
        >>> norm, x = SharedGroupNorm(2, 4, 1e-5, spiking_steps=3), torch.randn(3 * 5, 4, 2, 2)
        >>> mean = nn.functional.group_norm(x.unflatten(0, (3, 5)).mean(0), 2)
        >>> torch.allclose(norm(x).unflatten(0, (3, 5)).mean(0), mean, atol=1e-6)
        True
    """

    def __init__(self, groups: int, channels: int, eps: float, spiking_steps: int) -> None:
        super().__init__()
        self.groups, self.eps, self.spiking_steps = groups, eps, spiking_steps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    @classmethod
    def of(cls, norm: nn.GroupNorm, spiking_steps: int) -> SharedGroupNorm:
        """Return one in the place of a group norm, with the same parameters."""
        shared = cls(norm.num_groups, norm.num_channels, norm.eps, spiking_steps)
        shared.weight, shared.bias = norm.weight, norm.bias
        return shared

    def forward(self, x: Tensor) -> Tensor:
        """Return y."""
        window = unfold_time(x, self.spiking_steps)  # [T, B, C, H, W]
        groups = window.mean(0).reshape(window.shape[1], self.groups, -1)  # [B, G, C/G*H*W]
        variance, mean = torch.var_mean(groups, dim=2, correction=0)  # [B, G]
        mean, variance = (
            statistic.repeat_interleave(len(self.weight) // self.groups, dim=1)[..., None, None]
            for statistic in (mean, variance)
        )  # [B, C, 1, 1]
        gain = self.weight[:, None, None] * torch.rsqrt(variance + self.eps)
        return fold_time((window - mean) * gain + self.bias[:, None, None])
