"""FSDDIM's residual block: the neuron fires last, so that spikes enter and leave it."""

from functools import partial

from torch import Tensor, nn

from spikediff.layers.class_embedding import linear_by_image
from spikediff.layers.conv_norm import ConvNorm, Norm
from spikediff.layers.dropout import WindowDropout
from spikediff.layers.normed_neuron import fire_normed
from spikediff.layers.pointwise import pointwise_conv
from spikediff.layers.residual import Neuron
from spikediff.layers.threshold_norm import ThresholdNorm
from spikediff.layers.time import over_time
from spikediff.neurons import Memory


class NormedShortcut(nn.Module):
    """The skip: a norm, behind a 1x1 convolution where the width changes."""

    def __init__(self, in_channels: int, out_channels: int, norm: Norm) -> None:
        super().__init__()
        same = in_channels == out_channels
        self.conv = nn.Identity() if same else pointwise_conv(in_channels, out_channels)
        self.norm = norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the current [T, B, C_out, H, W] that joins."""
        return over_time(self.norm, over_time(self.conv, x))


class PostActivationBlock(nn.Module):
    r"""Convolve, norm, add the skip, fire.

    $h = SN(\mathrm{BN}(\mathrm{Conv}(x) + W\,SN(e_t)))$;
    $O = SN(\mathrm{BN}_\alpha(\mathrm{Conv}(h)) + \mathrm{BN}_\alpha(\mathrm{skip}(x)))$.

    Unlike `PlainBlock`, the timestep enters before the norm, as spikes of its own, and the skip has
    a norm. All norms are threshold-dependent (`ThresholdNorm`).

    Args:
        in_channels: Channels of the incoming spikes or currents.
        out_channels: Channels of the outgoing spikes.
        embedding_channels: Width of the timestep embedding.
        neuron: Makes one neuron layer.
        dropout: Probability of dropping a spiking unit before the second convolution.
        residual_alpha: $\alpha$ of the two norms whose results are added.
        v_threshold: Threshold of the neurons, which the norms aim at.

    Shape: x [T, B, C_in, H, W], embedding [T, B, E] -> spikes [T, B, C_out, H, W].

    Reference: Watanabe et al., "Fully spiking denoising diffusion implicit models", 2023 (released
    code); Zheng et al., AAAI 2021, section 3.3, for alpha.
    """

    gradient_checkpointing = False  # diffusers' flag; see `recomputation`

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_channels: int,
        neuron: Neuron,
        dropout: float = 0.0,
        residual_alpha: float = 1.0,
        v_threshold: float = 1.0,
    ) -> None:
        super().__init__()
        norm = partial(ThresholdNorm, v_threshold=v_threshold)
        residual_norm = partial(norm, alpha=residual_alpha)
        self.timestep_neuron = neuron()
        self.timestep_synapse = nn.Linear(embedding_channels, out_channels)
        self.synapse1 = ConvNorm(in_channels, out_channels, norm=norm)
        self.neuron1 = neuron()
        self.dropout = WindowDropout(dropout)
        self.synapse2 = ConvNorm(out_channels, out_channels, norm=residual_norm)
        self.shortcut = NormedShortcut(in_channels, out_channels, residual_norm)
        self.neuron2 = neuron()

    def forward(self, x: Tensor, embedding: Tensor, memory: Memory | None = None) -> Tensor:
        """Return the outgoing spikes; `memory` as in `spikediff.neurons.NeuronLayer.forward`."""
        timestep_spikes = self.timestep_neuron(embedding, memory)  # [T, B, E]
        bias = linear_by_image(self.timestep_synapse, timestep_spikes)[..., None, None]
        current = over_time(self.synapse1.conv, x) + bias  # [T, B, C, H, W]
        h = fire_normed(self.neuron1, self.synapse1.norm, current, memory=memory)
        current = self.synapse2(self.dropout(h)) + self.shortcut(x)
        spikes: Tensor = self.neuron2(current, memory)
        return spikes
