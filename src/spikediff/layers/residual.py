"""Dropout that drops a unit for the whole spiking window.

The two residual blocks of the SDDPM paper: pre-spike, and the plain one of its ablation.

Both have one skip per two convolutions and add the timestep between them. They differ in the place
of the neuron, hence in what flows along the skip: real-valued currents, or spikes.
"""

from collections.abc import Callable

from torch import Tensor, nn

from spikediff.layers.batch_invariant import elementwise
from spikediff.layers.class_embedding import linear_by_image
from spikediff.layers.conv import ConvNorm, pointwise_conv
from spikediff.layers.temporal_scaling import Scaling
from spikediff.layers.time import over_time


class WindowDropout(nn.Module):
    """Dropout whose mask is the same at every spiking step.

    A fresh mask a step would average out over the window and hardly regularise.

    Args:
        p: Probability of dropping a unit, in [0, 1).

    Shape: [T, B, ...] -> [T, B, ...].
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        """Return x with units dropped and the others scaled by 1 / (1 - p); x itself in eval."""
        if not self.training or self.drop.p == 0.0:
            return x
        mask: Tensor = self.drop(x.new_ones(x.shape[1:]))  # [B, ...], broadcast over T
        return x * mask


Neuron = Callable[[], nn.Module]


class _TimestepBias(nn.Module):
    """`Linear(Swish(embedding))`, to be added to a current at every spiking step and place."""

    def __init__(self, embedding_channels: int, out_channels: int, dimensions: int) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.linear = nn.Linear(embedding_channels, out_channels)

    def forward(self, embedding: Tensor) -> Tensor:
        bias = linear_by_image(self.linear, elementwise(nn.functional.silu, embedding))  # [B, C]
        # [B, C, 1, 1], broadcast over T, H, W; [B, C, 1] for signals
        return bias.view(*bias.shape, *[1] * self.dimensions)


class _Shortcut(nn.Module):
    """The skip: identity, or a 1x1 convolution (with bias, without norm) to change width."""

    def __init__(
        self, in_channels: int, out_channels: int, scaling: Scaling, dimensions: int
    ) -> None:
        super().__init__()
        same = in_channels == out_channels
        self.conv = nn.Identity() if same else pointwise_conv(in_channels, out_channels, dimensions)
        self.scaling = nn.Identity() if same else scaling()

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.conv, nn.Identity):
            return x
        current: Tensor = self.scaling(over_time(self.conv, x))
        return current


class PreSpikeBlock(nn.Module):
    r"""SDDPM's block: fire, convolve, norm; the residual stream stays real-valued.

    $S = SN(O^{l-1})$; $O = BN(Conv(S)) + e_t$; $S' = SN(O)$; $O^l = BN(Conv(S')) + skip(O^{l-1})$.

    Args:
        in_channels: Channels of the incoming stream.
        out_channels: Channels of the outgoing stream.
        embedding_channels: Width of the timestep embedding.
        neuron: Makes one neuron layer.
        dropout: Probability of dropping a spiking unit before the second convolution.
        scaling: Makes what scales the current of every convolution, the shortcut's too.
        dimensions: 2 for images, 1 for signals, which have no axis H.

    Shape: currents [T, B, C_in, H, W], embedding [B, E] -> currents [T, B, C_out, H, W].

    Reference: Cao et al., "Spiking denoising diffusion probabilistic models", WACV 2024.
    """

    gradient_checkpointing = False  # diffusers' flag; see `recomputation`

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_channels: int,
        neuron: Neuron,
        dropout: float = 0.0,
        scaling: Scaling = nn.Identity,
        dimensions: int = 2,
    ) -> None:
        super().__init__()
        self.neuron1 = neuron()
        self.synapse1 = ConvNorm(in_channels, out_channels, scaling=scaling, dimensions=dimensions)
        self.timestep_bias = _TimestepBias(embedding_channels, out_channels, dimensions)
        self.neuron2 = neuron()
        self.dropout = WindowDropout(dropout)
        self.synapse2 = ConvNorm(out_channels, out_channels, scaling=scaling, dimensions=dimensions)
        self.shortcut = _Shortcut(in_channels, out_channels, scaling, dimensions)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return the outgoing currents [T, B, C_out, H, W]."""
        h = self.synapse1.fire(self.neuron2, self.neuron1(x), self.timestep_bias(embedding))
        h = self.synapse2(self.dropout(h))
        out: Tensor = h + self.shortcut(x)
        return out


class PlainBlock(nn.Module):
    r"""The ablation's block: convolve, norm, add the incoming spikes, fire.

    $S' = SN(BN(Conv(S^{l-1})) + e_t)$; $S^l = SN(BN(Conv(S')) + skip(S^{l-1}))$.

    Spikes enter and leave it. The sum adds a spike train to a current, which the paper calls
    pathological overflow; it scores FID 48.69 on CIFAR-10 where `PreSpikeBlock` scores 19.73.

    Args:
        in_channels: Channels of the incoming spikes.
        out_channels: Channels of the outgoing spikes.
        embedding_channels: Width of the timestep embedding.
        neuron: Makes one neuron layer.
        dropout: Probability of dropping a spiking unit before the second convolution.
        scaling: Makes what scales the current of every convolution, the shortcut's too.
        dimensions: 2 for images, 1 for signals, which have no axis H.

    Shape: spikes [T, B, C_in, H, W], embedding [B, E] -> spikes [T, B, C_out, H, W].

    Reference: Cao et al., "Spiking denoising diffusion probabilistic models", WACV 2024, table 4.
    """

    gradient_checkpointing = False  # diffusers' flag; see `recomputation`

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_channels: int,
        neuron: Neuron,
        dropout: float = 0.0,
        scaling: Scaling = nn.Identity,
        dimensions: int = 2,
    ) -> None:
        super().__init__()
        self.synapse1 = ConvNorm(in_channels, out_channels, scaling=scaling, dimensions=dimensions)
        self.timestep_bias = _TimestepBias(embedding_channels, out_channels, dimensions)
        self.neuron1 = neuron()
        self.dropout = WindowDropout(dropout)
        self.synapse2 = ConvNorm(out_channels, out_channels, scaling=scaling, dimensions=dimensions)
        self.shortcut = _Shortcut(in_channels, out_channels, scaling, dimensions)
        self.neuron2 = neuron()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return the outgoing spikes [T, B, C_out, H, W]."""
        h = self.synapse1.fire(self.neuron1, x, self.timestep_bias(embedding))
        h = self.synapse2(self.dropout(h))
        spikes: Tensor = self.neuron2(h + self.shortcut(x))
        return spikes
