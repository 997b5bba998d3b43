r"""The deployment form: whole numbers from the stem to the answer, the same bits on any machine.

Counts are uint8, weights have 8, 6 or 4 bits, sums are int32. A synapse's sum becomes a current in
one fixed point ($2^{-16}$) by a shift to the left; biases and thresholds are whole numbers of that
unit:

    current = (sum << shift) + bias,   count = sum over k = 1..D of [current >= threshold_k]

Nothing is rounded behind a sum, and sums of whole numbers do not depend on their order. Between two
neurons everything is linear, so four executions give the same bits:

    counts   a convolution of the counts
    spikes   D micro-steps: each neuron waits for its window, then emits its count as binary spikes
    events   the weights of what fired are added, spike by spike
    delta    what changed since the last denoising step is added to the sums that were kept

`delta` is a sigma-delta network over the denoising clock.

Reference: O'Connor and Welling, "Sigma delta quantized networks", ICLR 2017; on processors, Ditto
(HPCA 2025) does the same for ordinary quantised networks.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn
from torch.nn import functional as F

from spikediff.diffusion.model import SpikingModel
from spikediff.diffusion.offloading import with_all_weights
from spikediff.errors import UserError, suggestion
from spikediff.events.compile import CompilesItself
from spikediff.files.tensors import check_finite
from spikediff.layers.norm import BatchNorm2d
from spikediff.layers.sizes import check_sample
from spikediff.neurons import CountNeuron, IntegerNeuron, unroll
from spikediff.systems.integer.convolution import (
    change_conv2d,
    count_conv2d,
    event_conv2d,
    fixed_point_conv2d,
    from_fixed_point,
    to_fixed_point,
)
from spikediff.systems.integer.network import (
    Block,
    CountConv2d,
    Doubling,
    IntegerSpikingUNet,
    Resample,
    StepBias,
    Synapse,
    add_skeleton,
    check_skeleton,
    through_skeleton,
)
from spikediff.systems.integer.weights import (
    FRACTION_BITS,
    SMALL_LAYER_BITS,
    check_weight_bits,
    pack,
    to_whole,
    unpack,
)

IMAGE_FRACTION_BITS = 12  # of 16: images reach from -8 to 8
MOST_LEVELS = 127
_STEM_BITS = 10  # of the one layer that sees real values
_LIMIT = 2**31  # of a current


@dataclass(frozen=True)
class KeptSums:
    """What `delta` carries from one denoising step to the next.

    Attributes:
        layers: Of every synapse, in the order of execution: the counts that it saw
            [B, C, H, W], uint8, and their sums [B, C_out, H', W'], int32.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.layers[0][0])


@dataclass
class DeployedUNetOutput(UNet2DOutput):
    """What a `DeployedIntegerUNet` returns.

    Attributes:
        sample: The estimate [B, C, H, W], float32.
        state: What `delta` keeps for the next call; None of other executions.
    """

    sample: Tensor
    state: KeptSums | None = None


@dataclass
class Call:
    """What one call hands to every part.

    Attributes:
        timesteps: Rows of the tables of biases [B or 1].
        classes: Rows of the tables of classes [B or 1].
        convolve: The execution.
        before: What the synapses kept in the last call, in order.
        after: What they keep in this one.
    """

    timesteps: Tensor
    classes: Tensor
    convolve: "Convolve"
    before: Iterator[tuple[Tensor, Tensor]]
    after: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class FixedPointNeuron(CountNeuron):
    """Integer neurons with whole thresholds: they count how many of them the current reaches.

    Args:
        channels: C.
        levels: D, the largest count.

    Shape: currents [B, C, H, W], int32 -> counts, uint8.
    """

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.thresholds = _whole(levels, channels, dtype=torch.int32)

    def forward(self, current: Tensor) -> Tensor:
        """Return the counts of currents."""
        counts = torch.zeros_like(current, dtype=torch.uint8)
        for threshold in self.thresholds:
            counts += current >= threshold[:, None, None]
        return counts

    def potential(self, current: Tensor) -> Tensor:
        """Return the currents in units of a spike; of one level, in units of its threshold."""
        first = self.thresholds[0]
        unit = self.thresholds[1] - first if self.levels > 1 else first.abs()
        level = (current - first[:, None, None]) / unit.clamp(min=1)[:, None, None]
        return level + 0.5

    def copy_from(self, neuron: IntegerNeuron) -> None:
        r"""Take over the thresholds $\theta (k - 1/2 - b)$, rounded up."""
        k = torch.arange(1, self.levels + 1)[:, None]  # [D, 1]
        thresholds = (k - 0.5 - neuron.bias.double()) * neuron.theta.double()
        self.thresholds.copy_(_fixed(thresholds, torch.ceil))


class IntegerSynapse(nn.Module):
    """Counts -> current, in whole numbers.

    Args:
        in_channels: Channels of the counts.
        out_channels: Channels of the current.
        kernel_size: 3 or 1.
        stride: 2 halves the image.
        weight_bits: 8, 6 or 4; two weights of 4 bits share a byte.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, weight_bits: int
    ) -> None:
        super().__init__()
        self.shape = (out_channels, in_channels, kernel_size, kernel_size)
        self.stride, self.padding, self.bits = stride, kernel_size // 2, weight_bits
        self.weight = _whole(*pack(torch.zeros(self.shape, dtype=torch.int8), weight_bits).shape)
        self.shift = _whole(out_channels)
        self.bias = _whole(out_channels, dtype=torch.int32)

    def forward(self, counts: Tensor, source: FixedPointNeuron, call: Call) -> Tensor:
        """Return the current [B, C_out, H', W'], int32, of what `source` emitted."""
        sums = call.convolve(counts, source.levels, self, call)
        return (sums << self.shift[:, None, None]) + self.bias[:, None, None]

    @property
    def whole_weight(self) -> Tensor:
        """Weights [C_out, C, k, k], int8."""
        whole = unpack(self.weight, self.bits)
        return whole.flatten()[: math.prod(self.shape)].view(self.shape)

    def copy_from(self, weight: Tensor, bias: Tensor) -> None:
        """Take over weights that hold norm and amplitude [C_out, C, k, k], and a bias [C_out]."""
        whole, exponents = to_whole(weight, self.bits)
        self.weight.copy_(pack(whole.to(torch.int8), self.bits))
        self.shift.copy_(FRACTION_BITS - exponents)
        self.bias.copy_(_fixed(bias))


class StepTables(nn.Module):
    """The biases of timestep and class, as rows of two tables.

    Args:
        channels: C.
        timesteps: N.
        classes: K.
    """

    def __init__(self, channels: int, timesteps: int, classes: int) -> None:
        super().__init__()
        self.of_timestep = _whole(timesteps, channels, dtype=torch.int16)
        self.of_class = _whole(classes + 1, channels, dtype=torch.int16)
        self.shift = _whole(1)

    def forward(self, call: Call) -> Tensor:
        """Return the bias [B or 1, C, 1, 1], int32."""
        bias = self.of_timestep[call.timesteps].int() + self.of_class[call.classes].int()
        return (bias << self.shift.int())[:, :, None, None]

    def copy_from(self, of_timestep: Tensor, of_class: Tensor) -> None:
        """Take over biases [N, C] and [K + 1, C], in the finest unit that holds them all."""
        peak = max(float(of_timestep.abs().max()), float(of_class.abs().max()), 2.0**-60)
        bits = min(FRACTION_BITS, int(torch.tensor((2**15 - 1) / peak).log2().floor()))
        self.of_timestep.copy_(_fixed(of_timestep, bits=bits))
        self.of_class.copy_(_fixed(of_class, bits=bits))
        self.shift.fill_(FRACTION_BITS - bits)


class FixedPointStem(nn.Module):
    """The first convolution, of an image in fixed point: the one dense input of the network.

    Args:
        in_channels: Channels of the image, patch by patch.
        out_channels: C_out.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = _whole(out_channels, in_channels, 3, 3, dtype=torch.int16)
        self.exponent = _whole(out_channels)
        self.bias = _whole(out_channels, dtype=torch.int32)

    def forward(self, image: Tensor) -> Tensor:
        """Return the current [B, C_out, H, W], int32, of an image [B, C, H, W], int16."""
        return self.rescaled(fixed_point_conv2d(image, self.weight, 1, 1))

    def rescaled(self, sums: Tensor) -> Tensor:
        """Return the current of sums [B, C_out, H, W]: their units become 2^-16, halves go up."""
        right, left = (shift.to(sums.dtype)[:, None, None] for shift in self.shifts())
        half = (1 << right) >> 1
        return (((sums + half) >> right) << left) + self.bias[:, None, None]

    def shifts(self) -> tuple[Tensor, Tensor]:
        """Return by how many bits the sums go to the right, and then to the left [C_out]."""
        excess = IMAGE_FRACTION_BITS - FRACTION_BITS + self.exponent.int()
        return excess.clamp(min=0), (-excess).clamp(min=0)

    def copy_from(self, conv: nn.Conv2d) -> None:
        """Take over a convolution of real values."""
        whole, exponents = to_whole(conv.weight, _STEM_BITS)
        self.weight.copy_(whole)
        self.exponent.copy_(exponents)
        assert conv.bias is not None
        self.bias.copy_(_fixed(conv.bias))


# An execution: sums [B, C_out, H', W'] of counts 0..levels through a synapse.
Convolve = Callable[[Tensor, int, IntegerSynapse, Call], Tensor]


def _by_counts(counts: Tensor, _levels: int, synapse: IntegerSynapse, _call: Call) -> Tensor:
    sums: Tensor = count_conv2d(counts, synapse.whole_weight, synapse.stride, synapse.padding)
    return sums


def _by_spikes(counts: Tensor, levels: int, synapse: IntegerSynapse, call: Call) -> Tensor:
    spikes = unroll(counts, levels).flatten(0, 1)  # [D * B, C, H, W]
    sums = _by_counts(spikes, 1, synapse, call)
    return sums.view(levels, len(counts), *sums.shape[1:]).sum(0, dtype=torch.int32)


def _by_events(counts: Tensor, _levels: int, synapse: IntegerSynapse, _call: Call) -> Tensor:
    sums: Tensor = event_conv2d(counts, synapse.whole_weight, synapse.stride, synapse.padding)
    return sums


def _by_changes(counts: Tensor, levels: int, synapse: IntegerSynapse, call: Call) -> Tensor:
    before = next(call.before, None)
    if before is None:  # from zero: nothing had fired
        before = (torch.zeros_like(counts), _no_sums(counts, synapse))
    weight = synapse.whole_weight
    sums: Tensor = change_conv2d(counts, *before, weight, synapse.stride, synapse.padding)
    call.after.append((counts, sums))
    return sums


def _no_sums(counts: Tensor, synapse: IntegerSynapse) -> Tensor:
    height, width = ((n - 1) // synapse.stride + 1 for n in counts.shape[2:])
    return counts.new_zeros((len(counts), synapse.shape[0], height, width), dtype=torch.int32)


EXECUTIONS: dict[str, Convolve] = {
    "counts": _by_counts,
    "spikes": _by_spikes,
    "events": _by_events,
    "delta": _by_changes,
}


class DeployedIntegerUNet(SpikingModel, CompilesItself):
    """An `IntegerSpikingUNet` in whole numbers; made by `to_integer`.

    Args:
        sample_size: As of `IntegerSpikingUNet`, and so are those that are not named here.
        weight_bits: Bits of a synapse's weight: 8, 6 or 4. The 1x1 shortcuts and the last
            convolution keep 8, the stem 10.
        execution: "counts", "spikes", "events" or "delta"; all give the same bits.

    Raises:
        UserError: Sizes do not fit together, or a name or width is unknown.

    Example:
        >>> unet = IntegerSpikingUNet(8, 1, block_out_channels=(8, 16)).eval()
        >>> form = to_integer(unet)
        >>> x = torch.randn(2, 1, 8, 8)
        >>> by_counts, by_spikes = form(x, 10), form.with_execution("spikes")(x, 10)
        >>> torch.equal(by_counts.sample, by_spikes.sample)
        True
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
        num_train_timesteps: int = 1000,
        weight_bits: int = 8,
        execution: str = "counts",
    ) -> None:
        super().__init__()
        check_weight_bits(weight_bits)
        check_skeleton(sample_size, patch_size, block_out_channels, layers_per_block)
        _check_execution(execution)
        for name, most in (("levels", levels), ("head_levels", head_levels)):
            if not 1 <= most <= MOST_LEVELS:
                raise UserError(
                    f"{name}={most}: the deployment form counts from 1 to {MOST_LEVELS}"
                )
        pixels = in_channels * patch_size**2
        parts = _IntegerParts(levels, head_levels, weight_bits, num_train_timesteps, num_classes)
        self.stem = FixedPointStem(pixels, block_out_channels[0])
        add_skeleton(self, block_out_channels, layers_per_block, pixels, parts)
        super().train(False)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of images and estimates; inside there are whole numbers."""
        return torch.float32

    def train(self, mode: bool = True) -> "DeployedIntegerUNet":
        """Refuse to be trained.

        Raises:
            UserError: Always, in training mode.
        """
        if mode:
            raise UserError(
                "DeployedIntegerUNet: whole numbers cannot be trained; train the "
                "IntegerSpikingUNet and call to_integer again"
            )
        return self

    def with_execution(self, execution: str) -> "DeployedIntegerUNet":
        """Return a view of this network that runs in another way; it shares the weights.

        Args:
            execution: "counts", "spikes", "events" or "delta".

        Raises:
            UserError: There is no such execution.
        """
        _check_execution(execution)
        view: DeployedIntegerUNet = object.__new__(type(self))
        view.__dict__.update(
            {k: copy.copy(v) if isinstance(v, dict) else v for k, v in self.__dict__.items()}
        )
        view.register_to_config(execution=execution)
        return view

    def ann_counterpart(self) -> IntegerSpikingUNet:
        """Return the ordinary network of the same sizes, untrained."""
        sizes = {key: value for key, value in self.config.items() if key in _SHARED}
        counterpart: IntegerSpikingUNet = IntegerSpikingUNet(**sizes, activation="silu")
        return counterpart

    @torch.no_grad()
    @with_all_weights
    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        class_labels: Tensor | None = None,
        state: KeptSums | None = None,
        return_dict: bool = True,
    ) -> DeployedUNetOutput | tuple[Tensor]:
        """Estimate the noise (or what `prediction_type` says) in a batch of images.

        Args:
            sample: Noisy images x_t [B, C, H, W].
            timestep: Diffusion timestep t, whole, one for all or one per image [B].
            class_labels: Classes [B], 0 to K - 1, or K for no class; None is no class for all.
            state: Of the last call, for the execution "delta"; None starts from zero.
            return_dict: False returns a tuple.

        Raises:
            UserError: The channels, the size, a timestep, a class or the state do not fit.
        """
        config = self.config
        self.check_call(sample, state)
        if state is not None and not isinstance(state, KeptSums):
            raise UserError(
                f"state: a {type(state).__name__} of a compiled form; go on with that form"
            )
        call = Call(
            *self.rows_of(sample, timestep, class_labels),
            EXECUTIONS[config.execution],
            iter(state.layers if state is not None else ()),
        )
        self.check_finite(sample)
        image = to_fixed_point(sample, IMAGE_FRACTION_BITS)
        current = self.stem(F.pixel_unshuffle(image, config.patch_size))
        answer = F.pixel_shuffle(through_skeleton(self, current, call), config.patch_size)
        estimate = from_fixed_point(answer, FRACTION_BITS)
        if not return_dict:
            return (estimate,)
        return DeployedUNetOutput(estimate, KeptSums(tuple(call.after)) if call.after else None)

    def check_call(self, sample: Tensor, state: Any) -> None:
        """Refuse other tensors than images, and a state of others or for another execution."""
        config = self.config
        check_sample(
            "DeployedIntegerUNet",
            sample,
            config.in_channels,
            len(config.block_out_channels),
            config.patch_size,
        )
        if not sample.is_floating_point():
            raise UserError(f"DeployedIntegerUNet: images are floating point, not {sample.dtype}")
        if state is not None and (config.execution != "delta" or len(state) != len(sample)):
            raise UserError(
                f"state: of {len(state)} images, given with {len(sample)} to an execution by "
                f"{config.execution!r}; only 'delta' goes on from a state, with the same images"
            )

    def check_finite(self, sample: Tensor) -> None:
        """Refuse images that fixed point cannot hold."""
        if not bool(sample.isfinite().all()):
            raise UserError("DeployedIntegerUNet: the sample is not finite")

    def rows_of(
        self, sample: Tensor, timestep: Any, labels: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the rows of the tables of timesteps and classes [B or 1], int64."""
        classes, images = self.config.num_classes, len(sample)
        steps = self.config.num_train_timesteps
        timesteps = _rows(timestep, steps, "timestep", sample.device, images)
        if labels is None:
            return timesteps, torch.tensor([classes], device=sample.device)
        if not classes:
            raise UserError(
                "class_labels: the model was trained without classes; leave them out, or train "
                "with model.num_classes"
            )
        return timesteps, _rows(labels, classes + 1, "class label", sample.device, images)

    def compiled(self) -> "DeployedIntegerUNet":
        """Return what `compile_for_inference` makes of it (`CompiledIntegerUNet`)."""
        from spikediff.systems.integer.compiled import compiled

        return compiled(self)


def to_integer(unet: IntegerSpikingUNet, weight_bits: int = 8) -> DeployedIntegerUNet:
    """Return a trained network in whole numbers.

    Norms and the amplitudes of spikes fold into the weights; the embeddings of timesteps and
    classes become tables.

    Args:
        unet: The network.
        weight_bits: 8, 6 or 4.

    Raises:
        UserError: The network is the ordinary counterpart, or has a layer that has no form in whole
            numbers; a width is unknown; currents might overflow 32 bits; a weight is not finite.
    """
    config = unet.config
    if config.activation != "integer":
        raise UserError(
            f"to_integer: activation {config.activation!r} emits no counts; only 'integer' does"
        )
    check_finite(unet.state_dict(), "to_integer")
    settings = {key: value for key, value in config.items() if key in _SHARED}
    form: DeployedIntegerUNet = DeployedIntegerUNet(**settings, weight_bits=weight_bits)
    with torch.no_grad():
        _copy(unet, form)
    _check_range(form)
    return form


_SHARED = (
    *("sample_size", "in_channels", "patch_size", "block_out_channels", "layers_per_block"),
    *("levels", "head_levels", "num_classes", "num_train_timesteps"),
)


class _IntegerParts:
    """Layers of whole numbers."""

    def __init__(
        self, levels: int, head_levels: int, weight_bits: int, timesteps: int, classes: int
    ) -> None:
        self.levels, self.head_levels, self.weight_bits = levels, head_levels, weight_bits
        self.timesteps, self.classes = timesteps, classes

    def neuron(self, channels: int, last: bool = False) -> nn.Module:
        """Return neurons, of more levels before the last convolution."""
        return FixedPointNeuron(channels, self.head_levels if last else self.levels)

    def synapse(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        gain: float = 1.0,
    ) -> nn.Module:
        """Return a synapse; the gain lies in its weights."""
        bits = SMALL_LAYER_BITS if kernel_size == 1 else self.weight_bits
        return IntegerSynapse(in_channels, out_channels, kernel_size, stride, bits)

    def bias(self, channels: int) -> nn.Module:
        """Return the tables of biases."""
        return StepTables(channels, self.timesteps, self.classes)

    def head(self, in_channels: int, out_channels: int) -> nn.Module:
        """Return the last synapse."""
        return IntegerSynapse(in_channels, out_channels, 3, 1, SMALL_LAYER_BITS)


def _copy(unet: IntegerSpikingUNet, form: DeployedIntegerUNet) -> None:
    """Fill the deployment form from a network, part by part."""
    parts, targets = dict(unet.named_modules()), dict(form.named_modules())
    for name, part in parts.items():
        embeds = name.startswith(("time_embedding", "class_embedding"))
        if not embeds and type(part) not in _FOLDABLE:
            raise UserError(f"to_integer: {name} is a {type(part).__name__}, which does not fold")
    form.stem.copy_from(unet.stem)
    for name, target in targets.items():
        if isinstance(target, FixedPointNeuron):
            target.copy_from(parts[name])
        elif isinstance(target, StepTables):
            target.copy_from(*_tables(unet, parts[name]))
        elif isinstance(target, IntegerSynapse):
            block, _, leaf = name.rpartition(".")
            source = parts[f"{block}.{_SOURCES[leaf]}".strip(".")]
            target.copy_from(*parts[name].folded(source))


_FOLDABLE = (
    *(IntegerSpikingUNet, Block, Resample, Synapse, CountConv2d, StepBias, IntegerNeuron),
    *(nn.ModuleList, nn.Conv2d, BatchNorm2d, nn.Identity, Doubling),
)

# The neurons that a synapse listens to, by its name in a block.
_SOURCES = {
    "synapse": "neuron",
    "synapse1": "neuron1",
    "synapse2": "neuron2",
    "shortcut": "neuron1",
    "head": "last_neuron",
}


def _tables(unet: IntegerSpikingUNet, bias: StepBias) -> tuple[Tensor, Tensor]:
    """Return the biases of all timesteps [N, C] and of all classes and none [K + 1, C]."""
    timesteps = torch.arange(unet.config.num_train_timesteps, device=unet.device)
    of_timestep = F.linear(F.silu(unet.time_embedding(timesteps)), bias.weight, bias.bias)
    if unet.class_embedding is None:
        return of_timestep, torch.zeros_like(of_timestep[:1])
    return of_timestep, F.linear(unet.class_embedding.table.weight, bias.weight)


def _check_range(form: DeployedIntegerUNet) -> None:
    """Refuse a network whose currents might overflow, whatever the image."""
    for name, current in largest_currents(form).items():
        if current >= _LIMIT:
            raise UserError(
                f"to_integer: {name} might reach a current of {current / 2**FRACTION_BITS:,.0f}, "
                f"which overflows 32 bits; train with weight decay or lower levels"
            )


def largest_currents(form: DeployedIntegerUNet) -> dict[str, int]:
    """Return a bound of the currents of every layer of neurons, of the stem's sums and the answer.

    The network of absolute weights, given the largest image, shows it: counts do not fall when a
    current rises.
    """
    bounds = copy.deepcopy(form)
    largest: dict[str, int] = {}
    for name, part in bounds.named_modules():
        if isinstance(part, StepTables):
            part.of_timestep.data = part.of_timestep.abs().amax(0, keepdim=True)
            part.of_class.data = part.of_class.abs().amax(0, keepdim=True)
        elif isinstance(part, IntegerSynapse | FixedPointStem):
            part.bias.abs_()
        elif isinstance(part, FixedPointNeuron):
            part.register_forward_pre_hook(
                lambda _part, given, name=name: largest.update({name: int(given[0].max())})
            )
    row = torch.zeros(1, dtype=torch.long, device=form.device)
    sums = 2**15 * form.stem.weight.long().abs().sum((1, 2, 3))[None, :, None, None]
    call = Call(row, row, _by_bounds, iter(()))
    answer = through_skeleton(bounds, bounds.stem.rescaled(sums), call)
    return {"stem": int(sums.max()), **largest, "head": int(answer.max())}


def _by_bounds(counts: Tensor, _levels: int, synapse: IntegerSynapse, _call: Call) -> Tensor:
    """Return the largest sums of counts up to these [1, C, H, W]: [1, C_out, 1, 1], int64."""
    weights = synapse.whole_weight.long().abs().sum((2, 3))  # [C_out, C]
    return (weights @ counts.long().amax((0, 2, 3)))[None, :, None, None]


def _rows(given: Any, rows: int, what: str, device: torch.device, images: int) -> Tensor:
    """Return timesteps or classes as rows of a table [B or 1].

    Raises:
        UserError: One is no whole number, there is no such row, or they are not of these images.
    """
    values = torch.as_tensor(given, device=device).reshape(-1)
    if len(values) not in (1, images):
        raise UserError(f"{what}: {len(values)} for {images} images; give one for each or for all")
    whole = values.long()
    wrong = (values != whole) | (whole < 0) | (whole >= rows)
    for value in values[wrong][:1].tolist():
        raise UserError(f"{what} {value:g}: the tables have rows for whole numbers 0 to {rows - 1}")
    return whole


def _check_execution(execution: str) -> None:
    if execution not in EXECUTIONS:
        hint = suggestion(execution, EXECUTIONS)
        raise UserError(f"execution {execution!r} is unknown; {hint}")


def _whole(*size: int, dtype: torch.dtype = torch.int8) -> nn.Parameter:
    return nn.Parameter(torch.zeros(size, dtype=dtype), requires_grad=False)


def _fixed(
    values: Tensor, rounding: Callable[[Tensor], Tensor] = torch.round, bits: int = FRACTION_BITS
) -> Tensor:
    """Return real values as multiples of 2^-bits."""
    return rounding(values.double() * 2.0**bits)
