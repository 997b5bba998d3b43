"""The diffusion timestep, as a vector that blocks add to their currents at every spiking step."""

import math

import torch
from torch import Tensor, nn

from spikediff.layers.batch_invariant import elementwise


def sinusoidal_embedding(timestep: Tensor, channels: int, reach_slowest: bool = False) -> Tensor:
    r"""Embed timesteps in sines and cosines, interleaved.

    $e_{2i} = \sin(\omega_i t)$, $e_{2i+1} = \cos(\omega_i t)$,
    $\omega_i = 10000^{-i/n}$ for $0 \le i < C/2$, with $n = C/2$ or $C/2 - 1$.

    Args:
        timestep: Timesteps [B], integral or not.
        channels: C, even.
        reach_slowest: Whether $n = C/2 - 1$, so that the last rate is 1/10000 itself (FSDDIM);
            else $n = C/2$ (SDDPM, and Vaswani et al.).

    Returns:
        The embedding [B, C], float32.

    Example:
        >>> sinusoidal_embedding(torch.tensor([0]), 4).tolist()
        [[0.0, 1.0, 0.0, 1.0]]

    Reference: Vaswani et al., "Attention is all you need", 2017.
    """
    half = channels // 2
    places = torch.arange(half, device=timestep.device)
    intervals = max(half - 1, 1) if reach_slowest else half
    rates = torch.exp(places * (-math.log(10000.0) / intervals))  # [C/2]
    angles = timestep.float()[:, None] * rates  # [B, C/2]
    pairs = torch.stack([angles.sin(), angles.cos()], dim=-1)  # [B, C/2, 2]
    return pairs.flatten(1)


class TimestepEmbedding(nn.Module):
    """Sinusoidal table, then `Linear - Swish - Linear`, in real numbers.

    Args:
        channels: Width of the table.
        embedding_channels: Width of the result.
        num_train_timesteps: Rows of the table, which is a frozen parameter as in the authors' net.

    Shape: [B] -> [B, embedding_channels].
    """

    def __init__(self, channels: int, embedding_channels: int, num_train_timesteps: int) -> None:
        super().__init__()
        table = sinusoidal_embedding(torch.arange(num_train_timesteps), channels)
        self.table = nn.Parameter(table, requires_grad=False)
        self.linear1 = nn.Linear(channels, embedding_channels)
        self.linear2 = nn.Linear(embedding_channels, embedding_channels)

    def forward(self, timestep: Tensor) -> Tensor:
        """Return the embedding of timesteps [B]; fractional ones (as in Karras schedules) too."""
        if timestep.is_floating_point():
            embedded = sinusoidal_embedding(timestep, self.table.shape[1]).to(self.table.dtype)
        else:
            embedded = self.table[timestep]
        hidden = elementwise(nn.functional.silu, self.linear1(embedded))
        out: Tensor = self.linear2(hidden)
        return out
