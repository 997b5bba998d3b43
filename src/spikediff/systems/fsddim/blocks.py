"""FSDDIM's timestep embedding, resampling, and residual block with a neuron at the end."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from spikediff.layers.batch_invariant import linear_by_image
from spikediff.layers.conv import ConvNorm, Neuron, Norm, pointwise_conv
from spikediff.layers.embeddings import rows_of, sinusoidal_embedding
from spikediff.layers.norm import ThresholdNorm, fold_norm, scale_outputs
from spikediff.layers.normed_neuron import fire_normed
from spikediff.layers.time import WindowDropout, fold_time, over_time, unfold_time
from spikediff.neurons import Memory, NeuronLayer

Resize = Callable[[Tensor], Tensor]


def average_downsample(x: Tensor) -> Tensor:
    """Return [T, B, C, H, W] as [T, B, C, H/2, W/2], the mean of every four pixels."""
    return unfold_time(nn.functional.avg_pool2d(fold_time(x), 2), x.shape[0])


def same_size(x: Tensor) -> Tensor:
    """Return the window itself."""
    return x


class SynapticResampling(nn.Module):
    """Resize and convolve; with neurons, also norm and fire.

    Without neurons the result is a current, and the convolution can merge with the next one into
    a single linear synapse.

    Shape: [T, B, C_in, H, W] -> [T, B, C_out, H', W'].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        resize: Resize,
        kernel_size: int,
        neuron: Neuron | None = None,
    ) -> None:
        super().__init__()
        self.resize = resize
        self.conv = (
            pointwise_conv(in_channels, out_channels)
            if kernel_size == 1
            else nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        )
        made = None if neuron is None else neuron()
        self.norm = nn.Identity() if made is None else _norm_before(made)(out_channels)
        self.neuron = made

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """Return the resized window of currents, or of spikes with neurons."""
        current = over_time(self.conv, self.resize(x))
        if self.neuron is None:
            return current
        return fire_normed(self.neuron, self.norm, current, memory=memory)

    def fold_norms(self) -> None:
        """Fold the norm into the convolution."""
        fold_norm(self, "conv")


def _norm_before(neuron: NeuronLayer, alpha: float = 1.0) -> Norm:
    """Return a factory of norms that scale with the threshold of a neuron."""
    return partial(ThresholdNorm, alpha=alpha, v_threshold=neuron.dynamics.v_threshold)


class NormedShortcut(nn.Module):
    """The skip: a norm, after a 1x1 convolution if the width changes."""

    def __init__(self, in_channels: int, out_channels: int, norm: Norm) -> None:
        super().__init__()
        same = in_channels == out_channels
        self.conv = nn.Identity() if same else pointwise_conv(in_channels, out_channels)
        self.norm = norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the current [T, B, C_out, H, W] to add."""
        return over_time(self.norm, over_time(self.conv, x))

    def fold_norms(self) -> None:
        """Fold the norm into the convolution."""
        fold_norm(self, "conv")


class PostActivationBlock(nn.Module):
    r"""Convolve, norm, add the skip, fire.

    $h = SN(\mathrm{BN}(\mathrm{Conv}(x) + W\,SN(e_t)))$;
    $O = SN(\mathrm{BN}_\alpha(\mathrm{Conv}(h)) + \mathrm{BN}_\alpha(\mathrm{skip}(x)))$.

    Unlike in `PlainBlock`, the timestep enters before the norm, as spikes, and the skip has
    a norm. All norms are threshold-dependent (`ThresholdNorm`).

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
    ) -> None:
        super().__init__()
        self.timestep_neuron = neuron()
        norm = _norm_before(self.timestep_neuron)
        residual_norm = _norm_before(self.timestep_neuron, residual_alpha)
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

    def fold_norms(self) -> None:
        """Fold the first norm, also into the timestep's synapse, which adds before the norm."""
        gain = fold_norm(self.synapse1, "conv")
        if gain is not None:
            scale_outputs(self.timestep_synapse, gain)


class SpikingTimestepEmbedding(nn.Module):
    """Sinusoidal table, then `Linear - neuron - Linear`: a current at every spiking step.

    Its only real-valued input is a row of the table (a buffer, as in the authors' network), the
    same at every spiking step: a chip stores the first layer's currents as biases, one row per
    timestep. A class adds its own vector to these currents.

    Shape: [B] -> [T, B, embedding_channels].
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
        """Return the embedding of timesteps [B] or [1], integral or not, over T spiking steps.

        `classes` is the current of the classes [B or 1, embedding_channels], if there are any.
        """
        current = (
            self.linear1(rows_of(self.table, timestep, reach_slowest=True)) + classes
        )  # [B, E]
        spikes = self.neuron(current.expand(spiking_steps, -1, -1), memory)  # [T, B, E]
        return linear_by_image(self.linear2, spikes)
