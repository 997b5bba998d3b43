"""SDDPM's residual blocks, resampling, stem and head.

The paper's two residual blocks have one skip per two convolutions and add the timestep between
them. They differ in the position of the neuron, and so in what the skip carries: real-valued
currents (pre-spike), or spikes (plain, from the ablation).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spikediff.layers.batch_invariant import elementwise, linear_by_image
from spikediff.layers.coding import direct
from spikediff.layers.conv import (
    BATCH_NORMS,
    CONVOLUTIONS,
    ConvNorm,
    Convolution,
    Neuron,
    pointwise_conv,
)
from spikediff.layers.temporal_scaling import Scaling
from spikediff.layers.time import WindowDropout, fold_time, nearest_upsample, over_time, unfold_time


@dataclass(frozen=True)
class Kit:
    """The common parts of all layers, which the network passes to them.

    Attributes:
        neuron: Makes one neuron layer.
        neuron_first: Whether neurons precede convolutions, so that currents flow between
            blocks (pre-spike); otherwise neurons come last, and spikes flow.
        scaling: Makes the module that scales the current of every convolution, including
            shortcuts.
        dropout: Probability of dropping a spiking unit before the second convolution of a block.
        embedding_channels: Width of the timestep embedding.
        dimensions: 2 for images, 1 for signals, which have no axis H.
    """

    neuron: Neuron
    neuron_first: bool = True
    scaling: Scaling = nn.Identity
    dropout: float = 0.0
    embedding_channels: int = 512
    dimensions: int = 2

    def conv(self, in_channels: int, out_channels: int) -> Convolution:
        """Return a convolution with a kernel of 3x3, or of 3."""
        return CONVOLUTIONS[self.dimensions](in_channels, out_channels, 3, padding=1)

    def conv_norm(self, in_channels: int, out_channels: int, stride: int = 1) -> ConvNorm:
        """Return a scaled convolution and its norm."""
        return ConvNorm(in_channels, out_channels, stride, self.scaling, dimensions=self.dimensions)


class _TimestepBias(nn.Module):
    """`Linear(Swish(embedding))`, added to a current at every spiking step and position."""

    def __init__(self, kit: Kit, out_channels: int) -> None:
        super().__init__()
        self.dimensions = kit.dimensions
        self.linear = nn.Linear(kit.embedding_channels, out_channels)

    def forward(self, embedding: Tensor) -> Tensor:
        bias = linear_by_image(self.linear, elementwise(nn.functional.silu, embedding))  # [B, C]
        # [B, C, 1, 1], broadcast over T, H, W; [B, C, 1] for signals
        return bias.view(*bias.shape, *[1] * self.dimensions)


class _Shortcut(nn.Module):
    """The skip: identity, or a 1x1 convolution (with bias, without norm) to change width."""

    def __init__(self, kit: Kit, in_channels: int, out_channels: int) -> None:
        super().__init__()
        same = in_channels == out_channels
        self.conv = (
            nn.Identity() if same else pointwise_conv(in_channels, out_channels, kit.dimensions)
        )
        self.scaling = nn.Identity() if same else kit.scaling()

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.conv, nn.Identity):
            return x
        current: Tensor = self.scaling(over_time(self.conv, x))
        return current


class _ResidualBlock(nn.Module):
    """Two convolutions with the timestep between them, and a skip."""

    gradient_checkpointing = False  # diffusers' flag; see `recomputation`

    def __init__(self, kit: Kit, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.neuron1 = kit.neuron()
        self.synapse1 = kit.conv_norm(in_channels, out_channels)
        self.timestep_bias = _TimestepBias(kit, out_channels)
        self.neuron2 = kit.neuron()
        self.dropout = WindowDropout(kit.dropout)
        self.synapse2 = kit.conv_norm(out_channels, out_channels)
        self.shortcut = _Shortcut(kit, in_channels, out_channels)


class PreSpikeBlock(_ResidualBlock):
    r"""SDDPM's block: fire, convolve, norm; the residual stream stays real-valued.

    $S = SN(O^{l-1})$; $O = BN(Conv(S)) + e_t$; $S' = SN(O)$; $O^l = BN(Conv(S')) + skip(O^{l-1})$.

    Shape: currents [T, B, C_in, H, W], embedding [B, E] -> currents [T, B, C_out, H, W].
    """

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return the outgoing currents."""
        h = self.synapse1.fire(self.neuron2, self.neuron1(x), self.timestep_bias(embedding))
        h = self.synapse2(self.dropout(h))
        out: Tensor = h + self.shortcut(x)
        return out


class PlainBlock(_ResidualBlock):
    r"""The ablation's block: convolve, norm, add the incoming spikes, fire.

    $S' = SN(BN(Conv(S^{l-1})) + e_t)$; $S^l = SN(BN(Conv(S')) + skip(S^{l-1}))$.

    Its input and output are spikes. The sum adds a spike train to a current, which the paper calls
    pathological overflow; its FID on CIFAR-10 is 48.69, that of `PreSpikeBlock` 19.73
    (table 4).

    Shape: spikes [T, B, C_in, H, W], embedding [B, E] -> spikes [T, B, C_out, H, W].
    """

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return the outgoing spikes."""
        h = self.synapse1.fire(self.neuron1, x, self.timestep_bias(embedding))
        h = self.synapse2(self.dropout(h))
        spikes: Tensor = self.neuron2(h + self.shortcut(x))
        return spikes


BLOCKS: dict[str, type[nn.Module]] = {"pre_spike": PreSpikeBlock, "plain": PlainBlock}


class _Resampling(nn.Module):
    """Fire, resize, convolve, norm; or fire last."""

    stride = 1

    def __init__(self, kit: Kit, channels: int) -> None:
        super().__init__()
        self.neuron = kit.neuron()
        self.synapse = kit.conv_norm(channels, channels, self.stride)
        self.neuron_first = kit.neuron_first

    def resize(self, x: Tensor) -> Tensor:
        """Return the input of the convolution."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Return the window at its new size."""
        if self.neuron_first:
            return self.synapse(self.resize(self.neuron(x)))  # type: ignore[no-any-return]
        return self.synapse.fire(self.neuron, self.resize(x))


class Downsample(_Resampling):
    """Halve the size by a stride of 2: [T, B, C, H, W] -> [T, B, C, H/2, W/2]."""

    stride = 2


class Upsample(_Resampling):
    """Double the size by repeating pixels: [T, B, C, H, W] -> [T, B, C, 2H, 2W]."""

    def resize(self, x: Tensor) -> Tensor:
        """Return the window with every pixel repeated."""
        return nearest_upsample(x)


class Stem(nn.Module):
    """Direct coding and the first neurons: image -> residual stream.

    `BN(Conv(SN(BN(Conv(x)))))`. The image is the same at every spiking step, so its convolution
    runs once. If `places` gives H and W, each position has its own learned current in every
    channel, initialised to zero.

    Shape: [B, C_in, H, W] -> currents [T, B, C_out, H, W], or spikes of a network that fires last.
    """

    def __init__(
        self,
        kit: Kit,
        in_channels: int,
        out_channels: int,
        spiking_steps: int,
        places: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.spiking_steps = spiking_steps
        self.encode = kit.conv_norm(in_channels, out_channels)
        self.neuron = kit.neuron()
        self.synapse = kit.conv_norm(out_channels, out_channels)
        self.last_neuron = nn.Identity() if kit.neuron_first else kit.neuron()
        self.position_embedding = (
            None if places is None else nn.Parameter(torch.zeros(out_channels, *places))
        )

    def forward(self, sample: Tensor) -> Tensor:
        """Return the first entry of the residual stream."""
        current = direct(self.encode.conv(sample), self.spiking_steps)  # [T, B, C, H, W]
        spikes = self.neuron(self.encode.normalise(current))
        current = self.synapse(spikes)
        if self.position_embedding is not None:
            current = current + self.position_embedding.to(current.dtype)
        out: Tensor = self.last_neuron(current)
        return out


class Head(nn.Module):
    """The real-valued head: residual stream -> noise estimate of every spiking step.

    `y = Conv(Swish(BN(x)))`, `z = Swish(BN(Conv(y))) + y`. The authors write the second
    convolution as a Conv3d of kernel (3, 3, 1): it does not mix spiking steps. Temporal scaling
    applies to y, not to the second convolution.

    Shape: [T, B, C, H, W] -> [T, B, C_out, H, W].
    """

    def __init__(self, kit: Kit, channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = BATCH_NORMS[kit.dimensions](channels)
        self.conv = kit.conv(channels, out_channels)
        self.scaling = kit.scaling()
        self.refine = ConvNorm(out_channels, out_channels, dimensions=kit.dimensions)

    def forward(self, x: Tensor) -> Tensor:
        """Return z."""
        y = self.scaling(over_time(self.conv, _swish(over_time(self.norm, x))))
        z: Tensor = _swish(self.refine(y)) + y
        return z


def _swish(window: Tensor) -> Tensor:
    return unfold_time(elementwise(nn.functional.silu, fold_time(window)), len(window))


class SpikingHead(nn.Module):
    """A head for chips: neurons (unless the input is spikes), then one convolution of spikes."""

    def __init__(self, kit: Kit, channels: int, out_channels: int) -> None:
        super().__init__()
        self.neuron = kit.neuron() if kit.neuron_first else nn.Identity()
        self.conv = kit.conv(channels, out_channels)
        self.scaling = kit.scaling()

    def forward(self, x: Tensor) -> Tensor:
        """Return the currents."""
        current: Tensor = self.scaling(over_time(self.conv, self.neuron(x)))
        return current
