r"""The diffusion timestep, as a vector that blocks add to their currents.

`TimestepEmbedding` knows the diffusion clock alone: the same vector serves all spiking steps.
`SpikingTimestepEmbedding` answers at every spiking step, through neurons of its own.
"""

import math

import torch
from torch import Tensor, nn

from spikediff.layers.batch_invariant import elementwise
from spikediff.layers.class_embedding import linear_by_image
from spikediff.layers.residual import Neuron
from spikediff.neurons import Memory


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


class SpikingTimestepEmbedding(nn.Module):
    """Sinusoidal table, then `Linear - neuron - Linear`: a current at every spiking step.

    Its only real-valued input is a row of the table, which is the same at every spiking step of a
    timestep: a chip keeps the first layer's currents as biases, one row a timestep. A class joins
    those currents as a vector of its own.

    Args:
        channels: Width of the table.
        embedding_channels: Width of the result.
        num_train_timesteps: Rows of the table, which is a buffer as in the authors' network.
        neuron: Makes one neuron layer.

    Shape: [B] -> [T, B, embedding_channels].

    Reference: Watanabe et al., "Fully spiking denoising diffusion implicit models", 2023.
    """

    table: Tensor

    def __init__(
        self, channels: int, embedding_channels: int, num_train_timesteps: int, neuron: Neuron
    ) -> None:
        super().__init__()
        table = sinusoidal_embedding(torch.arange(num_train_timesteps), channels, True)
        self.register_buffer("table", table)
        self.linear1 = nn.Linear(channels, embedding_channels)
        self.neuron = neuron()
        self.linear2 = nn.Linear(embedding_channels, embedding_channels)

    def forward(
        self,
        timestep: Tensor,
        spiking_steps: int,
        memory: Memory | None = None,
        classes: Tensor | float = 0.0,
    ) -> Tensor:
        """Return the embedding of timesteps [B], integral or not, over so many spiking steps.

        Args:
            timestep: Timesteps [B] or [1].
            spiking_steps: T.
            memory: As in `spikediff.neurons.NeuronLayer.forward`.
            classes: Current of the classes [B or 1, embedding_channels], if there are any.
        """
        current = self.linear1(self.embed(timestep)) + classes  # [B, E]
        spikes = self.neuron(current.expand(spiking_steps, -1, -1), memory)  # [T, B, E]
        return linear_by_image(self.linear2, spikes)

    def embed(self, timestep: Tensor) -> Tensor:
        """Return the sines and cosines of timesteps [B]: [B, channels]."""
        if not timestep.is_floating_point():
            return self.table[timestep]
        return sinusoidal_embedding(timestep, self.table.shape[1], True).to(self.table.dtype)
