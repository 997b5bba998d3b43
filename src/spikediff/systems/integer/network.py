"""The integer spiking U-Net: synapses receive spike counts, and training takes one pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn
from torch.nn import functional as F

from spikediff.diffusion.model import SpikingModel, with_all_weights
from spikediff.diffusion.return_dict import Answering
from spikediff.errors import UserError
from spikediff.events.compile import CompilesItself
from spikediff.layers import (
    TimestepEmbedding,
    class_embedding,
    embed_classes,
    never_alone,
    one_or_each,
)
from spikediff.layers.batch_invariant import elementwise, linear_by_image
from spikediff.layers.norm import BatchNorm2d
from spikediff.layers.recomputation import ComputesBlocksAgain
from spikediff.layers.sizes import check_sample, choose
from spikediff.neurons import IntegerNeuron
from spikediff.systems.integer.skeleton import (
    add_skeleton,
    bits_by_synapse,
    check_skeleton,
    through_skeleton,
)
from spikediff.systems.integer.weights import check_weight_bits, rounded

if TYPE_CHECKING:
    from spikediff.systems.integer.deployment import DeployedIntegerUNet

EMBEDDING_CHANNELS = 128
_SINES = 64  # width of the sinusoidal table
_NORM_MOMENTUM = 0.02

# Inputs of the synapses in one call: counts [B, C, H, W], and the synapses they reach per image.
Traffic = list[tuple[Tensor, int]]


@dataclass
class Call:
    """Data of one call for every part; `embedding` [B or 1, E] is that of timestep and class.

    Synapses append to `traffic`; None once the call has read it, or if nothing will.
    """

    embedding: Tensor
    traffic: Traffic | None


ACTIVATIONS = {"integer": "spike counts", "silu": "the ordinary counterpart's"}


class SiLU(nn.Module):
    """The activation of the ordinary counterpart."""

    def forward(self, current: Tensor) -> Tensor:
        """Return current * sigmoid(current)."""
        return elementwise(F.silu, current)

    def fold_amplitude(self, weight: Tensor) -> Tensor:
        """Return the weights unchanged: real values include their amplitude."""
        return weight


Activation = IntegerNeuron | SiLU  # the layer before a synapse


class CountConv2d(nn.Conv2d):
    """A convolution of counts; its weights include the amplitude, and may be rounded."""

    weight_bits: int | None = None

    def forward(self, counts: Tensor, source: Activation, call: Call) -> Tensor:  # type: ignore[override]
        """Return the current [B, C_out, H', W'] of what `source` emitted."""
        return self.convolve(counts, *self.folded(source), call)

    def folded(self, source: Activation) -> tuple[Tensor, Tensor | None]:
        """Return weights [C_out, C, k, k] including the amplitude, and the bias [C_out]."""
        return source.fold_amplitude(self.weight), self.bias

    def convolve(self, counts: Tensor, weight: Tensor, bias: Tensor | None, call: Call) -> Tensor:
        """Convolve with weights that include the amplitude, and record the synapses' input."""
        if self.weight_bits is not None:
            weight = rounded(weight, self.weight_bits)
        dilation = 2 if self.kernel_size == (1, 1) else 1  # see `pointwise_conv`
        convolve = partial(F.conv2d, weight=weight, bias=bias, stride=self.stride)
        out = never_alone(partial(convolve, padding=self.padding, dilation=dilation), counts)
        if call.traffic is not None:
            call.traffic.append((counts, out.shape[2:].numel() * weight.numel()))
        return out


class Synapse(nn.Module):
    """Counts -> current: `BN(conv(count, W theta))`; the norm folds into the weights.

    The kernel size is 3 or 1; `gain` is the first value of the norm's weights.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.conv = CountConv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.norm = BatchNorm2d(out_channels, momentum=_NORM_MOMENTUM)
        nn.init.constant_(self.norm.weight, gain)

    def forward(self, counts: Tensor, source: Activation, call: Call) -> Tensor:
        """Return the current [B, C_out, H', W'] of what `source` emitted."""
        if self.conv.weight_bits is not None:  # rounded after folding, so the statistics are frozen
            return self.conv.convolve(counts, *self.folded(source), call)
        current: Tensor = self.norm(self.conv(counts, source, call))
        return current

    def folded(self, source: Activation) -> tuple[Tensor, Tensor]:
        """Return weights [C_out, C, k, k] and bias [C_out] including the norm and the amplitude."""
        norm: Any = self.norm
        scale: Tensor = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight = self.conv.folded(source)[0] * scale[:, None, None, None]
        return weight, norm.bias - norm.running_mean * scale


class StepBias(nn.Linear):
    """The bias that timestep and class add to a block's first current."""

    def __init__(self, channels: int) -> None:
        super().__init__(EMBEDDING_CHANNELS, channels)

    def forward(self, call: Call) -> Tensor:  # type: ignore[override]
        """Return the bias [B or 1, C, 1, 1]."""
        return linear_by_image(super().forward, call.embedding)[:, :, None, None]


@dataclass
class IntegerUNetOutput(UNet2DOutput):
    """Output of an `IntegerSpikingUNet`.

    Attributes:
        sample: The estimate [B, C, H, W].
        rate: T x rate: spikes per synapse and call, 0-dim, with a gradient; of the counterpart, its
            mean activation; None in evaluation.
        change: Changes of counts per synapse between the two halves of the batch, 0-dim; None if
            not requested.
    """

    rate: Tensor | None = None
    change: Tensor | None = None


class IntegerSpikingUNet(ComputesBlocksAgain, CompilesItself, SpikingModel):
    """A U-Net of integer neurons, for spike-driven diffusion; or its ordinary counterpart.

    The image is cut into patches, and one convolution (the stem) turns them into currents. All
    later convolutions receive spike counts; only the biases of timestep and class are real-valued.
    There is no attention and no max pooling, and every norm folds.

    Args:
        sample_size: Height and width of the images.
        in_channels: Channels of the image.
        patch_size: Side of the patches of pixels that the network sees as one.
        block_out_channels: Width of every level; each level but the last halves the image.
        layers_per_block: Residual blocks per level (one more on the way up).
        levels: D, the largest spike count of a neuron.
        head_levels: D of the neurons before the last convolution.
        num_classes: K classes; 0 for a network without classes.
        activation: "integer", or "silu" for the ordinary counterpart.
        per_channel: Whether each channel has its own threshold, or each layer.
        weight_bits: Rounds the synapses' weights as `to_integer(weight_bits)` does, with the norms'
            statistics frozen, to fine-tune a trained network for few bits; None for no rounding.
        num_train_timesteps: Rows of the timestep table.

    Example:
        >>> model = IntegerSpikingUNet(8, 1, block_out_channels=(8, 16))
        >>> model.eval()(torch.randn(2, 1, 8, 8), timestep=10).sample.shape
        torch.Size([2, 1, 8, 8])
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 28,
        in_channels: int = 1,
        patch_size: int = 1,
        block_out_channels: Sequence[int] = (48, 96),
        layers_per_block: int = 1,
        levels: int = 4,
        head_levels: int = 15,
        num_classes: int = 0,
        activation: str = "integer",
        per_channel: bool = True,
        weight_bits: int | None = None,
        num_train_timesteps: int = 1000,
    ) -> None:
        super().__init__()
        check_skeleton(self.config)
        parts = _FloatParts(activation, levels, head_levels, per_channel)
        pixels = in_channels * patch_size**2  # of a patch
        self.time_embedding = TimestepEmbedding(_SINES, EMBEDDING_CHANNELS, num_train_timesteps)
        self.class_embedding = class_embedding(num_classes, EMBEDDING_CHANNELS)
        self.stem = nn.Conv2d(pixels, block_out_channels[0], 3, padding=1)
        add_skeleton(self, block_out_channels, layers_per_block, pixels, parts)
        nn.init.normal_(self.head.weight, std=0.01)
        if weight_bits is not None:
            check_weight_bits(weight_bits)
            for name, bits in bits_by_synapse(self, weight_bits).items():
                synapse = self.get_submodule(name)
                getattr(synapse, "conv", synapse).weight_bits = bits

    @with_all_weights
    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        class_labels: Tensor | None = None,
        paired: bool = False,
        return_dict: bool = True,
    ) -> IntegerUNetOutput | tuple[Tensor]:
        """Estimate the noise (or what `prediction_type` says) in a batch of images.

        The arguments are those of `SpikingUNet.forward`, and `paired`: whether image k + B/2 is
        image k at another timestep, so that `change` is known.
        """
        check_sample(
            "IntegerSpikingUNet",
            sample,
            self.config.in_channels,
            len(self.config.block_out_channels),
            self.config.patch_size,
        )
        embedding = self.embed(timestep, class_labels, sample.shape[0], sample.device)
        traffic: Traffic = []
        call = Call(embedding, traffic if self.training or paired else None)
        current = self.stem(F.pixel_unshuffle(sample, self.config.patch_size))
        estimate = F.pixel_shuffle(through_skeleton(self, current, call), self.config.patch_size)
        call.traffic = None  # the backward pass may compute blocks again
        if not return_dict:
            return (estimate,)
        rate = spikes_per_synapse(traffic) if self.training else None
        change = changes_per_synapse(traffic) if paired else None
        return IntegerUNetOutput(estimate, rate, change)

    if TYPE_CHECKING:
        __call__: Answering[..., IntegerUNetOutput]

    def embed(
        self, timestep: Any, class_labels: Tensor | None, images: int, device: torch.device
    ) -> Tensor:
        """Return the embedding [B or 1, E] that gives the biases of all blocks.

        Timestep and class are added after the last non-linearity, so a bias is the sum of a row
        of one table and a row of another.
        """
        timestep = one_or_each("timestep", timestep, images, device)
        of_time = elementwise(F.silu, self.time_embedding(timestep))
        return of_time + embed_classes(self.class_embedding, class_labels, images, device)

    def compiled(self) -> nn.Module:
        """Raise a `UserError`: only the deployment form compiles."""
        if self.config.activation != "integer":
            raise UserError(
                "compile_for_inference: the ordinary counterpart has no spikes, so it has no "
                "event-driven form"
            )
        raise UserError(
            "compile_for_inference: an integer network must be deployed first; call "
            "`unet.to_integer()` first"
        )

    def to_integer(self, weight_bits: int = 8) -> "DeployedIntegerUNet":
        """Return the deployment form: see `spikediff.systems.integer.to_integer`."""
        from spikediff.systems.integer.folding import to_integer

        return to_integer(self, weight_bits)

    def ann_counterpart(self) -> "IntegerSpikingUNet":
        """Return the ordinary network of the same sizes, untrained."""
        counterpart: IntegerSpikingUNet = self.from_config(
            self.config, activation="silu", weight_bits=None
        )
        return counterpart


def spikes_per_synapse(traffic: Traffic) -> Tensor:
    """Return T x rate of a call: spikes per synapse, with silent padding, 0-dim."""
    synapses = sum(reached for _, reached in traffic)
    once: Traffic = []
    for counts, reached in traffic:
        for place, (seen, before) in enumerate(once):
            if seen is counts:  # a block's first spikes also reach its shortcut
                once[place] = counts, before + reached
                break
        else:
            once.append((counts, reached))
    rates = [counts.mean() * (reached / synapses) for counts, reached in once]
    return torch.stack(rates).sum()


def changes_per_synapse(traffic: Traffic) -> Tensor:
    """Return the difference of counts between the halves of the batch, per synapse, 0-dim."""
    halves = [(counts.chunk(2), reached) for counts, reached in traffic]
    return spikes_per_synapse([((b - a).abs(), reached) for (a, b), reached in halves])


class _FloatParts:
    """Floating-point layers: integer neurons, or the activation of the ordinary counterpart."""

    synapse = Synapse
    bias = StepBias

    def __init__(self, activation: str, levels: int, head_levels: int, per_channel: bool) -> None:
        choose("IntegerSpikingUNet", ACTIVATIONS, "activation", activation)
        self.spiking = activation == "integer"
        self.levels, self.head_levels, self.per_channel = levels, head_levels, per_channel

    def neuron(self, channels: int, last: bool = False) -> nn.Module:
        if not self.spiking:
            return SiLU()
        return IntegerNeuron(channels, self.head_levels if last else self.levels, self.per_channel)

    def head(self, in_channels: int, out_channels: int) -> nn.Module:
        return CountConv2d(in_channels, out_channels, 3, padding=1)
