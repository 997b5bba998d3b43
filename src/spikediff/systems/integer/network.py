"""The integer spiking U-Net: every synapse sees spike counts, and training costs one pass."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn
from torch.nn import functional as F

from spikediff.diffusion.model import SpikingModel
from spikediff.diffusion.offloading import with_all_weights
from spikediff.errors import UserError, suggestion
from spikediff.events.compile import CompilesItself
from spikediff.layers import TimestepEmbedding, class_embedding, embed_classes, never_alone
from spikediff.layers.batch_invariant import elementwise
from spikediff.layers.class_embedding import linear_by_image
from spikediff.layers.norm import BatchNorm2d
from spikediff.layers.recomputation import ComputesBlocksAgain, computed
from spikediff.layers.sizes import check_sample, patches_of
from spikediff.neurons import IntegerNeuron
from spikediff.systems.integer.weights import SMALL_LAYER_BITS, check_weight_bits, rounded

if TYPE_CHECKING:
    from spikediff.systems.integer.deployment import DeployedIntegerUNet

EMBEDDING_CHANNELS = 128
_SINES = 64  # width of the sinusoidal table
_NORM_MOMENTUM = 0.02

# What synapses saw in one call: counts [B, C, H, W], and how many synapses they reach per image.
Traffic = list[tuple[Tensor, int]]


@dataclass
class Call:
    """What one call hands to every part of the network.

    Attributes:
        embedding: Of timestep and class [B or 1, E].
        traffic: What the synapses saw so far.
    """

    embedding: Tensor
    traffic: Traffic = field(default_factory=list)


class Activation(Protocol):
    """What stands before a synapse: integer neurons, or an ordinary activation."""

    def __call__(self, current: Tensor) -> Tensor:
        """Return what the synapses see."""

    def fold_amplitude(self, weight: Tensor) -> Tensor:
        """Return the weights times the amplitude of what they see."""


class SiLU(nn.Module):
    """The activation of the ordinary counterpart."""

    def forward(self, current: Tensor) -> Tensor:
        """Return current * sigmoid(current)."""
        return elementwise(F.silu, current)

    def fold_amplitude(self, weight: Tensor) -> Tensor:
        """Return the weights: real values carry their amplitude themselves."""
        return weight


class CountConv2d(nn.Conv2d):
    """A convolution of counts, with the amplitude of the spikes in its weights.

    With `weight_bits`, the weights are rounded as those of the deployment form are.
    """

    weight_bits: int | None = None

    def forward(self, counts: Tensor, source: Activation, call: Call) -> Tensor:  # type: ignore[override]
        """Return the current [B, C_out, H', W'] of what `source` emitted."""
        return self.convolve(counts, *self.folded(source), call)

    def folded(self, source: Activation) -> tuple[Tensor, Tensor | None]:
        """Return weights [C_out, C, k, k] that hold the amplitude, and the bias [C_out]."""
        return source.fold_amplitude(self.weight), self.bias

    def convolve(self, counts: Tensor, weight: Tensor, bias: Tensor | None, call: Call) -> Tensor:
        """Convolve with weights that hold the amplitude, and note what the synapses saw."""
        if self.weight_bits is not None:
            weight = rounded(weight, self.weight_bits)
        dilation = 2 if self.kernel_size == (1, 1) else 1  # see `pointwise_conv`
        convolve = partial(F.conv2d, weight=weight, bias=bias, stride=self.stride)
        out = never_alone(partial(convolve, padding=self.padding, dilation=dilation), counts)
        call.traffic.append((counts, out[0, 0].numel() * weight.numel()))
        return out


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
        self.conv = CountConv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.norm = BatchNorm2d(out_channels, momentum=_NORM_MOMENTUM)
        nn.init.constant_(self.norm.weight, gain)

    def forward(self, counts: Tensor, source: Activation, call: Call) -> Tensor:
        """Return the current [B, C_out, H', W'] of what `source` emitted."""
        if (
            self.conv.weight_bits is not None
        ):  # rounded after folding, so the statistics stand still
            return self.conv.convolve(counts, *self.folded(source), call)
        current: Tensor = self.norm(self.conv(counts, source, call))
        return current

    def folded(self, source: Activation) -> tuple[Tensor, Tensor]:
        """Return weights [C_out, C, k, k] and bias [C_out] that hold the norm and the amplitude."""
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


class Parts(Protocol):
    """Makes the layers of a network: of floating point for training, of integers to deploy."""

    def neuron(self, channels: int, last: bool = False) -> nn.Module:
        """Return neurons: current [B, C, H, W] -> counts; `last` before the last convolution."""

    def synapse(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        gain: float = 1.0,
    ) -> nn.Module:
        """Return a synapse: (counts, neurons that emitted them, call) -> current."""

    def bias(self, channels: int) -> nn.Module:
        """Return the bias of timestep and class: call -> [B or 1, C, 1, 1]."""

    def head(self, in_channels: int, out_channels: int) -> nn.Module:
        """Return the last synapse, which is called as all are."""


class Block(nn.Module):
    """A residual block: currents are added, spikes are convolved.

    `h + synapse2(neuron2(synapse1(neuron1(h)) + bias(t, class)))`; where the widths differ, a 1x1
    synapse from the first spikes takes the place of h.

    Args:
        in_channels: Channels of the current that enters.
        out_channels: Channels of the current that leaves.
        parts: Makes the layers.
    """

    gradient_checkpointing = False  # diffusers' flag; see `recomputation`

    def __init__(self, in_channels: int, out_channels: int, parts: Parts) -> None:
        super().__init__()
        self.neuron1 = parts.neuron(in_channels)
        self.synapse1 = parts.synapse(in_channels, out_channels)
        self.time = parts.bias(out_channels)
        self.neuron2 = parts.neuron(out_channels)
        self.synapse2 = parts.synapse(out_channels, out_channels, gain=0.1)
        same = in_channels == out_channels
        self.shortcut = None if same else parts.synapse(in_channels, out_channels, kernel_size=1)

    def forward(self, h: Tensor, call: Any) -> Tensor:
        """Return the current [B, C_out, H, W]."""
        spikes = self.neuron1(h)
        current = self.synapse1(spikes, self.neuron1, call) + self.time(call)
        current = self.synapse2(self.neuron2(current), self.neuron2, call)
        if self.shortcut is not None:
            h = self.shortcut(spikes, self.neuron1, call)
        out: Tensor = current + h
        return out


class Doubling(nn.Module):
    """Repeat every spike 2x2."""

    def forward(self, spikes: Tensor) -> Tensor:
        """Return spikes [B, C, 2 H, 2 W]."""
        return F.interpolate(spikes, scale_factor=2.0, mode="nearest")


class Resample(nn.Module):
    """Halve the image (stride 2), or double it (every spike repeated 2x2), then a 3x3 synapse.

    Args:
        channels: Channels in and out.
        parts: Makes the layers.
        doubles: Whether to double the size instead of halving it.
    """

    def __init__(self, channels: int, parts: Parts, doubles: bool) -> None:
        super().__init__()
        self.neuron = parts.neuron(channels)
        self.synapse = parts.synapse(channels, channels, stride=1 if doubles else 2)
        self.resize = Doubling() if doubles else nn.Identity()

    def forward(self, h: Tensor, call: Any) -> Tensor:
        """Return the current at the new size."""
        out: Tensor = self.synapse(self.resize(self.neuron(h)), self.neuron, call)
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


class IntegerSpikingUNet(ComputesBlocksAgain, CompilesItself, SpikingModel):
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
        weight_bits: Rounds the synapses' weights as `to_integer(weight_bits)` does, with the norms'
            statistics frozen, to fine-tune a trained network for few bits; None rounds nothing.
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
        weight_bits: int | None = None,
        num_train_timesteps: int = 1000,
    ) -> None:
        super().__init__()
        check_skeleton(sample_size, patch_size, block_out_channels, layers_per_block)
        parts = _FloatParts(activation, levels, head_levels, per_channel)
        pixels = in_channels * patch_size**2  # of a patch
        self.time_embedding = TimestepEmbedding(_SINES, EMBEDDING_CHANNELS, num_train_timesteps)
        self.class_embedding = class_embedding(num_classes, EMBEDDING_CHANNELS)
        self.stem = nn.Conv2d(pixels, block_out_channels[0], 3, padding=1)
        add_skeleton(self, block_out_channels, layers_per_block, pixels, parts)
        nn.init.normal_(self.head.weight, std=0.01)
        if weight_bits is not None:
            check_weight_bits(weight_bits)
            for conv in (m for m in self.modules() if isinstance(m, CountConv2d)):
                small = conv is self.head or conv.kernel_size == (1, 1)
                conv.weight_bits = SMALL_LAYER_BITS if small else weight_bits

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

        Args:
            sample: Noisy images x_t [B, C, H, W].
            timestep: Diffusion timestep t, one for all (a number or 0-dim) or one per image [B].
            class_labels: Classes [B], 0 to K - 1, or K for no class; None is no class for all.
            paired: Whether image k + B/2 is image k at another timestep, so that `change` is known.
            return_dict: False returns a tuple.

        Raises:
            UserError: The channels or the size do not fit the network, or it has no such class.
        """
        check_sample(
            "IntegerSpikingUNet",
            sample,
            self.config.in_channels,
            len(self.config.block_out_channels),
            self.config.patch_size,
        )
        call = Call(self.embed(torch.as_tensor(timestep, device=sample.device), class_labels))
        current = self.stem(F.pixel_unshuffle(sample, self.config.patch_size))
        estimate = F.pixel_shuffle(through_skeleton(self, current, call), self.config.patch_size)
        if not return_dict:
            return (estimate,)
        rate = spikes_per_synapse(call.traffic) if self.training else None
        change = changes_per_synapse(call.traffic) if paired else None
        return IntegerUNetOutput(estimate, rate, change)

    def embed(self, timestep: Tensor, class_labels: Tensor | None) -> Tensor:
        """Return what the biases of all blocks are made of [B or 1, E].

        Timestep and class are added behind the last non-linearity, so that a bias is a row of one
        table plus a row of another.
        """
        of_time = elementwise(F.silu, self.time_embedding(timestep.reshape(-1)))
        return of_time + embed_classes(self.class_embedding, class_labels)

    def compiled(self) -> nn.Module:
        """Refuse: what runs fast is the deployment form."""
        raise UserError(
            "compile_for_inference: an integer network compiles in whole numbers; call "
            "`unet.to_integer()` first"
        )

    def to_integer(self, weight_bits: int = 8) -> "DeployedIntegerUNet":
        """Return the deployment form: see `spikediff.systems.integer.to_integer`."""
        from spikediff.systems.integer.deployment import to_integer

        return to_integer(self, weight_bits)

    def ann_counterpart(self) -> "IntegerSpikingUNet":
        """Return the ordinary network of the same sizes, untrained."""
        # Not from_config: it takes arguments that were given by position for defaults.
        settings = {key: value for key, value in self.config.items() if not key.startswith("_")}
        settings |= {"activation": "silu", "weight_bits": None}
        counterpart: IntegerSpikingUNet = type(self)(**settings)
        return counterpart


def spikes_per_synapse(traffic: Traffic) -> Tensor:
    """Return T x rate of a call: spikes per synapse, padding counted as silent, 0-dim."""
    synapses = sum(reached for _, reached in traffic)
    once: dict[int, tuple[Tensor, int]] = {}  # a block's first spikes reach its shortcut, too
    for counts, reached in traffic:
        once[id(counts)] = counts, reached + once.get(id(counts), (counts, 0))[1]
    rates = [counts.mean() * (reached / synapses) for counts, reached in once.values()]
    return torch.stack(rates).sum()


def changes_per_synapse(traffic: Traffic) -> Tensor:
    """Return how much the counts of the batch's halves differ, per synapse, 0-dim."""
    halves = [(counts.chunk(2), reached) for counts, reached in traffic]
    return spikes_per_synapse([((b - a).abs(), reached) for (a, b), reached in halves])


class _FloatParts:
    """Layers of floating point: integer neurons, or the activation of the ordinary counterpart."""

    synapse = Synapse
    bias = StepBias

    def __init__(self, activation: str, levels: int, head_levels: int, per_channel: bool) -> None:
        if activation not in ("integer", "silu"):
            hint = suggestion(activation, ("integer", "silu"))
            raise UserError(f"IntegerSpikingUNet: activation {activation!r} is unknown; {hint}")
        self.spiking = activation == "integer"
        self.levels, self.head_levels, self.per_channel = levels, head_levels, per_channel

    def neuron(self, channels: int, last: bool = False) -> nn.Module:
        """Return neurons, of more levels before the last convolution."""
        if not self.spiking:
            return SiLU()
        return IntegerNeuron(channels, self.head_levels if last else self.levels, self.per_channel)

    def head(self, in_channels: int, out_channels: int) -> nn.Module:
        """Return the last synapse, which no norm follows."""
        return CountConv2d(in_channels, out_channels, 3, padding=1)


def add_skeleton(
    model: nn.Module, widths: Sequence[int], layers_per_block: int, pixels: int, parts: Parts
) -> None:
    """Give a model everything behind the stem: `down_blocks` to `head`, of whatever parts.

    Args:
        model: The model.
        widths: Channels of every level; each level but the last halves the image.
        layers_per_block: Residual blocks per level (one more on the way up).
        pixels: Channels of the answer, patch by patch.
        parts: Makes the layers.
    """
    model.down_blocks, skips = _way_down(widths, layers_per_block, parts)
    model.middle_block = Block(widths[-1], widths[-1], parts)
    model.up_blocks = _way_up(widths, layers_per_block, skips, parts)
    model.last_neuron = parts.neuron(widths[0], last=True)
    model.head = parts.head(widths[0], pixels)


def _through(block: nn.Module, h: Tensor, call: Call) -> Tensor:
    """Return the current behind a block; see `spikediff.layers.recomputation`."""
    if isinstance(block, Block):
        return computed(block, h, call)
    out: Tensor = block(h, call)
    return out


def through_skeleton(model: Any, h: Tensor, call: Any) -> Tensor:
    """Return a model's answer to the current of its stem [B, C, H, W], patch by patch."""
    skips = [h]
    for block in model.down_blocks:
        h = _through(block, h, call)
        skips.append(h)
    h = _through(model.middle_block, h, call)
    for block in model.up_blocks:
        if isinstance(block, Block):
            h = torch.cat([h, skips.pop()], dim=1)
        h = _through(block, h, call)
    answer: Tensor = model.head(model.last_neuron(h), model.last_neuron, call)
    return answer


def _way_down(
    widths: Sequence[int], layers_per_block: int, parts: Parts
) -> tuple[nn.ModuleList, list[int]]:
    """Return the contracting half, and the channels of every skip that it leaves, stem's first."""
    blocks, skips, width = nn.ModuleList(), [widths[0]], widths[0]
    for level, out_width in enumerate(widths):
        for _ in range(layers_per_block):
            blocks.append(Block(width, out_width, parts))
            skips.append(width := out_width)
        if level < len(widths) - 1:
            blocks.append(Resample(width, parts, doubles=False))
            skips.append(width)
    return blocks, skips


def _way_up(
    widths: Sequence[int], layers_per_block: int, skips: list[int], parts: Parts
) -> nn.ModuleList:
    """Return the expanding half; every block takes the last skip that is left beside its input."""
    blocks, width = nn.ModuleList(), widths[-1]
    for level, out_width in reversed(list(enumerate(widths))):
        for _ in range(layers_per_block + 1):
            blocks.append(Block(width + skips.pop(), out_width, parts))
            width = out_width
        if level > 0:
            blocks.append(Resample(width, parts, doubles=True))
    return blocks


def check_skeleton(
    sample_size: int, patch_size: int, widths: Sequence[int], layers_per_block: int
) -> None:
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
