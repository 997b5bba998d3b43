"""The integer spiking U-Net: every synapse sees spike counts, and training costs one pass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn
from torch.nn import functional as F

from spikediff.errors import UserError, suggestion
from spikediff.layers import TimestepEmbedding, class_embedding, embed_classes
from spikediff.layers.class_embedding import linear_by_image
from spikediff.models.own_memory import with_own_memory
from spikediff.models.sizes import check_sample, patches_of
from spikediff.neurons import IntegerNeuron

EMBEDDING_CHANNELS = 128
_SINES = 64  # width of the sinusoidal table
_NORM_MOMENTUM = 0.02

# What synapses saw in one call: counts [B, C, H, W], and how many synapses they reach per image.
Traffic = list[tuple[Tensor, int]]


class Activation(Protocol):
    """What stands before a synapse: integer neurons, or an ordinary activation."""

    def __call__(self, current: Tensor) -> Tensor:
        """Return what the synapses see."""

    def fold_amplitude(self, weight: Tensor) -> Tensor:
        """Return the weights times the amplitude of what they see."""


MakeActivation = Callable[[int], nn.Module]


class SiLU(nn.Module):
    """The activation of the ordinary counterpart."""

    def forward(self, current: Tensor) -> Tensor:
        """Return current * sigmoid(current)."""
        return F.silu(current)

    def fold_amplitude(self, weight: Tensor) -> Tensor:
        """Return the weights: real values carry their amplitude themselves."""
        return weight


class Synapse(nn.Module):
    """Counts -> current: `BN(conv(count, W theta))`; the norm folds into the weights.

    Args:
        in_channels: Channels of the counts.
        out_channels: Channels of the current.
        kernel_size: 3 or 1.
        stride: 2 halves the image.
        gain: First value of the norm's weights.
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
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, momentum=_NORM_MOMENTUM)
        nn.init.constant_(self.norm.weight, gain)

    def forward(self, counts: Tensor, source: Activation, traffic: Traffic) -> Tensor:
        """Return the current [B, C_out, H', W'] of what `source` emitted."""
        current: Tensor = self.norm(convolve(self.conv, counts, source, traffic))
        return current


def convolve(conv: nn.Conv2d, counts: Tensor, source: Activation, traffic: Traffic) -> Tensor:
    """Return the currents of counts through a convolution that holds their amplitude.

    Args:
        conv: The convolution.
        counts: What `source` emitted [B, C, H, W].
        source: The neurons, whose amplitude joins the weights.
        traffic: Where the counts and the number of their synapses are noted.
    """
    weight = source.fold_amplitude(conv.weight)
    out = F.conv2d(counts, weight, conv.bias, conv.stride, conv.padding)
    traffic.append((counts, out[0, 0].numel() * weight.numel()))
    return out


class Block(nn.Module):
    """A residual block: currents are added, spikes are convolved.

    `h + conv2(fire2(conv1(fire1(h)) + time))`; where the widths differ, a 1x1 synapse from the first
    spikes takes the place of h.

    Args:
        in_channels: Channels of the current that enters.
        out_channels: Channels of the current that leaves.
        activation: Makes the neurons of so many channels.
    """

    def __init__(self, in_channels: int, out_channels: int, activation: MakeActivation) -> None:
        super().__init__()
        self.neuron1 = activation(in_channels)
        self.synapse1 = Synapse(in_channels, out_channels)
        self.time = nn.Linear(EMBEDDING_CHANNELS, out_channels)
        self.neuron2 = activation(out_channels)
        self.synapse2 = Synapse(out_channels, out_channels, gain=0.1)
        same = in_channels == out_channels
        self.shortcut = None if same else Synapse(in_channels, out_channels, kernel_size=1)

    def forward(self, h: Tensor, embedding: Tensor, traffic: Traffic) -> Tensor:
        """Return the current [B, C_out, H, W]."""
        spikes = self.neuron1(h)
        bias = linear_by_image(self.time, embedding)[:, :, None, None]
        current = self.synapse1(spikes, self.neuron1, traffic) + bias
        current = self.synapse2(self.neuron2(current), self.neuron2, traffic)
        if self.shortcut is None:
            return current + h
        return current + self.shortcut(spikes, self.neuron1, traffic)


class Resample(nn.Module):
    """Halve the image (stride 2), or double it (every spike repeated 2x2), then a 3x3 synapse.

    Args:
        channels: Channels in and out.
        activation: Makes the neurons.
        double: Whether to double the size instead of halving it.
    """

    def __init__(self, channels: int, activation: MakeActivation, double: bool) -> None:
        super().__init__()
        self.neuron = activation(channels)
        self.synapse = Synapse(channels, channels, stride=1 if double else 2)
        self.double = double

    def forward(self, h: Tensor, _embedding: Tensor, traffic: Traffic) -> Tensor:
        """Return the current at the new size."""
        spikes = self.neuron(h)
        if self.double:
            spikes = F.interpolate(spikes, scale_factor=2.0, mode="nearest")
        out: Tensor = self.synapse(spikes, self.neuron, traffic)
        return out


@dataclass
class IntegerUNetOutput(UNet2DOutput):
    """What an `IntegerSpikingUNet` returns.

    Attributes:
        sample: The estimate [B, C, H, W].
        rate: T x rate: spikes per synapse and call, 0-dim, with a gradient; None in evaluation.
        change: Changes of counts per synapse between the two halves of the batch, 0-dim; None where
            it was not asked for.
    """

    sample: Tensor
    rate: Tensor | None = None
    change: Tensor | None = None


class IntegerSpikingUNet(ModelMixin, ConfigMixin):
    """A U-Net of integer neurons, for spike-driven diffusion; or its ordinary counterpart.

    The image is cut into patches, and one convolution (the stem) turns them into currents. From
    there on convolutions see spike counts only, and real values are left in the biases that the
    timestep and the class add. There is no attention, no max pooling, and every norm folds.

    Args:
        sample_size: Height and width of the images.
        in_channels: Channels of the image.
        patch_size: Side of the patches of pixels that the network sees as one.
        block_out_channels: Width of every level; each level but the last halves the image.
        layers_per_block: Residual blocks per level (one more on the way up).
        levels: D, the largest spike count of a neuron.
        head_levels: D of the neurons before the last convolution.
        num_classes: K classes that an image may be asked to be of; 0 for none.
        activation: "integer", or "silu" for the ordinary counterpart.
        per_channel: Whether each channel has its own threshold, or each layer.
        num_train_timesteps: Rows of the timestep table.

    Raises:
        UserError: Sizes do not fit together, or a name is unknown.

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
        num_train_timesteps: int = 1000,
    ) -> None:
        super().__init__()
        _check(sample_size, patch_size, block_out_channels, layers_per_block)
        make, make_last = _activations(activation, levels, head_levels, per_channel)
        widths = tuple(block_out_channels)
        pixels = in_channels * patch_size**2  # of a patch
        self.time_embedding = TimestepEmbedding(_SINES, EMBEDDING_CHANNELS, num_train_timesteps)
        self.class_embedding = class_embedding(num_classes, EMBEDDING_CHANNELS)
        self.stem = nn.Conv2d(pixels, widths[0], 3, padding=1)
        self.down_blocks, skips = _way_down(widths, layers_per_block, make)
        self.middle_block = Block(widths[-1], widths[-1], make)
        self.up_blocks = _way_up(widths, layers_per_block, skips, make)
        self.last_neuron = make_last(widths[0])
        self.head = nn.Conv2d(widths[0], pixels, 3, padding=1)
        nn.init.normal_(self.head.weight, std=0.01)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a model as diffusers does, and give its weights memory of their own."""
        return with_own_memory(super().from_pretrained(*args, **kwargs), kwargs)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        class_labels: Tensor | None = None,
        paired: bool = False,
        return_dict: bool = True,
    ) -> IntegerUNetOutput | tuple[Tensor]:
        """Estimate the noise (or what `prediction_type` says) in a batch of images.

        Args:
            sample: Noisy images x_t [B, C, H, W].
            timestep: Diffusion timestep t, one for all (a number or 0-dim) or one per image [B].
            class_labels: Classes [B], 0 to K - 1, or K for no class; None is no class for all.
            paired: Whether image k + B/2 is image k at another timestep, so that `change` is known.
            return_dict: False returns a tuple.

        Raises:
            UserError: The channels or the size do not fit the network, or it has no such class.
        """
        config = self.config
        levels = len(config.block_out_channels)
        check_sample("IntegerSpikingUNet", sample, config.in_channels, levels, config.patch_size)
        embedding = self.embed(torch.as_tensor(timestep, device=sample.device), class_labels)
        traffic: Traffic = []
        h = self.stem(F.pixel_unshuffle(sample, config.patch_size))
        skips = [h]
        for block in self.down_blocks:
            h = block(h, embedding, traffic)
            skips.append(h)
        h = self.middle_block(h, embedding, traffic)
        for block in self.up_blocks:
            if isinstance(block, Block):
                h = torch.cat([h, skips.pop()], dim=1)
            h = block(h, embedding, traffic)
        estimate = convolve(self.head, self.last_neuron(h), self.last_neuron, traffic)
        estimate = F.pixel_shuffle(estimate, config.patch_size)
        if not return_dict:
            return (estimate,)
        rate = spikes_per_synapse(traffic) if self.training else None
        return IntegerUNetOutput(estimate, rate, changes_per_synapse(traffic) if paired else None)

    def embed(self, timestep: Tensor, class_labels: Tensor | None) -> Tensor:
        """Return what the biases of all blocks are made of [B or 1, E].

        Timestep and class are added behind the last non-linearity, so that a bias is a row of one
        table plus a row of another.
        """
        of_time = F.silu(self.time_embedding(timestep.reshape(-1)))
        return of_time + embed_classes(self.class_embedding, class_labels)

    def ann_counterpart(self) -> "IntegerSpikingUNet":
        """Return the ordinary network of the same sizes, untrained."""
        counterpart: IntegerSpikingUNet = type(self).from_config(self.config, activation="silu")
        return counterpart


def spikes_per_synapse(traffic: Traffic) -> Tensor:
    """Return T x rate of a call: spikes per synapse, padding counted as silent, 0-dim."""
    synapses = sum(reached for _, reached in traffic)
    return torch.stack([counts.mean() * (reached / synapses) for counts, reached in traffic]).sum()


def changes_per_synapse(traffic: Traffic) -> Tensor:
    """Return how much the counts of the batch's halves differ, per synapse, 0-dim."""
    halves = [(counts.chunk(2), reached) for counts, reached in traffic]
    return spikes_per_synapse([((b - a).abs(), reached) for (a, b), reached in halves])


def _activations(
    name: str, levels: int, head_levels: int, per_channel: bool
) -> tuple[MakeActivation, MakeActivation]:
    """Return what makes the neurons, and those before the last convolution."""
    if name == "silu":
        return (lambda _channels: SiLU()), (lambda _channels: SiLU())
    if name != "integer":
        hint = suggestion(name, ("integer", "silu"))
        raise UserError(f"IntegerSpikingUNet: activation {name!r} is unknown; {hint}")
    return (
        partial(IntegerNeuron, levels=levels, per_channel=per_channel),
        partial(IntegerNeuron, levels=head_levels, per_channel=per_channel),
    )


def _way_down(
    widths: Sequence[int], layers_per_block: int, make: MakeActivation
) -> tuple[nn.ModuleList, list[int]]:
    """Return the contracting half, and the channels of every skip that it leaves, stem's first."""
    blocks, skips, width = nn.ModuleList(), [widths[0]], widths[0]
    for level, out_width in enumerate(widths):
        for _ in range(layers_per_block):
            blocks.append(Block(width, out_width, make))
            skips.append(width := out_width)
        if level < len(widths) - 1:
            blocks.append(Resample(width, make, double=False))
            skips.append(width)
    return blocks, skips


def _way_up(
    widths: Sequence[int], layers_per_block: int, skips: list[int], make: MakeActivation
) -> nn.ModuleList:
    """Return the expanding half; every block takes the last skip that is left beside its input."""
    blocks, width = nn.ModuleList(), widths[-1]
    for level, out_width in reversed(list(enumerate(widths))):
        for _ in range(layers_per_block + 1):
            blocks.append(Block(width + skips.pop(), out_width, make))
            width = out_width
        if level > 0:
            blocks.append(Resample(width, make, double=True))
    return blocks


def _check(sample_size: int, patch_size: int, widths: Sequence[int], layers_per_block: int) -> None:
    """Refuse sizes of which no U-Net can be made."""
    patches = patches_of("IntegerSpikingUNet", sample_size, patch_size)
    if not widths or min(widths) < 1 or layers_per_block < 1:
        raise UserError(
            f"IntegerSpikingUNet: block_out_channels={tuple(widths)} and "
            f"layers_per_block={layers_per_block} must be positive"
        )
    factor = 2 ** (len(widths) - 1)
    if patches % factor:
        raise UserError(
            f"IntegerSpikingUNet: {patches} patches a side must be divisible by {factor}, because "
            f"block_out_channels={tuple(widths)} has {len(widths)} levels"
        )
