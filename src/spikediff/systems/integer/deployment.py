r"""The deployment form: integer arithmetic from the stem to the output, the same bits everywhere.

Counts are uint8, weights have 8, 6 or 4 bits, sums are int32. A left shift turns a synapse's sum
into a current in a common fixed point ($2^{-16}$); biases and thresholds are integers in that
unit:

    current = (sum << shift) + bias,   count = sum over k = 1..D of [current >= threshold_k]

Nothing is rounded after a sum, and sums of integers do not depend on their order. Between two
neurons everything is linear, so four executions give the same bits:

    counts   a convolution of the counts
    spikes   D micro-steps: each neuron waits for its window, then emits its count as binary spikes
    events   the weights of spikes are added, spike by spike
    delta    changes since the last denoising step are added to the stored sums

`delta` is a sigma-delta network over the denoising clock.

Reference: O'Connor and Welling, "Sigma delta quantized networks", ICLR 2017; on processors, Ditto
(HPCA 2025) does the same for ordinary quantised networks.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn
from torch.nn import functional as F

from spikediff.diffusion.model import SpikingModel, with_all_weights
from spikediff.diffusion.return_dict import Answering
from spikediff.errors import UserError, kind_of
from spikediff.events.compile import CompilesItself
from spikediff.layers import one_or_each
from spikediff.layers.sizes import check_sample, choose
from spikediff.systems.integer.convolution import (
    MOST_COUNT,
    apply,
    from_fixed_point,
    to_fixed_point,
)
from spikediff.systems.integer.network import IntegerSpikingUNet
from spikediff.systems.integer.skeleton import (
    add_skeleton,
    bits_by_synapse,
    check_skeleton,
    through_skeleton,
)
from spikediff.systems.integer.weights import FRACTION_BITS, check_weight_bits
from spikediff.systems.integer.whole_layers import (
    EXECUTIONS,
    IMAGE_FRACTION_BITS,
    Call,
    FixedPointNeuron,
    FixedPointStem,
    IntegerSynapse,
    StepTables,
)


@dataclass(frozen=True)
class KeptSums:
    """The state that `delta` carries from one denoising step to the next.

    `head` is the last layer of the network, which all its views share. `layers` has for every
    synapse, in the order of execution, its input counts [B, C, H, W], uint8, and their sums
    [B, C_out, H', W'], int32.
    """

    head: nn.Module
    layers: tuple[tuple[Tensor, Tensor], ...]

    def __len__(self) -> int:
        return len(self.layers[0][0])


@dataclass
class DeployedUNetOutput(UNet2DOutput):
    """The estimate [B, C, H, W], float32, and the state of `delta` for the next call."""

    state: KeptSums | None = None


Form = TypeVar("Form", bound="DeployedIntegerUNet")


class DeployedIntegerUNet(SpikingModel, CompilesItself):
    """An `IntegerSpikingUNet` in integer arithmetic; made by `to_integer`.

    Args:
        sample_size: As for `IntegerSpikingUNet`, like all arguments not listed here.
        weight_bits: Bits per synaptic weight: 8, 6 or 4. The blocks of the first level, the 1x1
            shortcuts and the last convolution always have 8, the stem 10.
        execution: "counts", "spikes", "events" or "delta"; all give the same bits.

    Example:
        >>> form = IntegerSpikingUNet(8, 1, block_out_channels=(8, 16)).eval().to_integer()
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
        check_skeleton(self.config)
        choose("DeployedIntegerUNet", EXECUTIONS, "execution", execution)
        for name, most in (("levels", levels), ("head_levels", head_levels)):
            if most > MOST_COUNT:
                raise UserError(f"{name}={most}: the deployment form supports 1 to {MOST_COUNT}")
        pixels = in_channels * patch_size**2
        parts = _IntegerParts(levels, head_levels, num_train_timesteps, num_classes)
        self.stem = FixedPointStem(pixels, block_out_channels[0])
        add_skeleton(self, block_out_channels, layers_per_block, pixels, parts)
        for name, bits in bits_by_synapse(self, weight_bits).items():
            self.get_submodule(name).set_bits(bits)
        super().train(False)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of images and estimates; all arithmetic inside is in integers."""
        return torch.float32

    def train(self, mode: bool = True) -> "DeployedIntegerUNet":
        """Raise a `UserError` in training mode: integers cannot be trained."""
        if mode:
            raise UserError(
                "DeployedIntegerUNet: integers cannot be trained; train the "
                "IntegerSpikingUNet and call to_integer again"
            )
        return self

    def with_execution(self, execution: str) -> "DeployedIntegerUNet":
        """Return a view of this network with another of the `EXECUTIONS`."""
        choose("DeployedIntegerUNet", EXECUTIONS, "execution", execution)
        view = self.view_as(type(self))
        view.register_to_config(execution=execution)
        return view

    def view_as(self, kind: type[Form]) -> Form:
        """Return a network of another class that shares the weights."""
        view: Form = object.__new__(kind)
        view.__dict__.update(
            {k: copy.copy(v) if isinstance(v, dict) else v for k, v in self.__dict__.items()}
        )
        return view

    def ann_counterpart(self) -> IntegerSpikingUNet:
        """Return the ordinary network of the same sizes, untrained."""
        sizes = {key: value for key, value in self.config.items() if key in SHARED_SETTINGS}
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
        """Estimate the noise in images, as `IntegerSpikingUNet.forward` does; t is an integer.

        `state` is that of the previous call, for the execution "delta"; None starts from zero.
        """
        config = self.config
        self.check_call(sample, state)
        if state is not None and getattr(state, "head", None) is not self.head:
            raise UserError(
                f"state: {kind_of(state)} of another network or form; give a state that "
                f"this form returned"
            )
        call = Call(
            *self.rows_of(sample, timestep, class_labels),
            EXECUTIONS[config.execution],
            iter(state.layers if state is not None else ()),
        )
        self.check_finite(sample)
        image = apply(to_fixed_point, sample, IMAGE_FRACTION_BITS)
        current = self.stem(F.pixel_unshuffle(image, config.patch_size))
        answer = F.pixel_shuffle(through_skeleton(self, current, call), config.patch_size)
        estimate = apply(from_fixed_point, answer, FRACTION_BITS)
        if not return_dict:
            return (estimate,)
        kept = KeptSums(self.head, tuple(call.after)) if call.after else None
        return DeployedUNetOutput(estimate, kept)

    if TYPE_CHECKING:
        __call__: Answering[..., DeployedUNetOutput]

    def check_call(self, sample: Tensor, state: Any) -> None:
        """Refuse tensors that are not images, and states for other images or executions."""
        config = self.config
        check_sample(
            "DeployedIntegerUNet",
            sample,
            config.in_channels,
            len(config.block_out_channels),
            config.patch_size,
        )
        if not sample.is_floating_point():
            raise UserError(
                f"DeployedIntegerUNet: images must be floating point, not {sample.dtype}"
            )
        if state is not None and (config.execution != "delta" or len(state) != len(sample)):
            raise UserError(
                f"state: of {len(state)} images, given with {len(sample)} to an execution by "
                f"{config.execution!r}; only 'delta' goes on from a state, with the same images"
            )

    def check_finite(self, sample: Tensor) -> None:
        """Refuse images that fixed point cannot represent."""
        if not torch.compiler.is_compiling() and not bool(sample.isfinite().all()):
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
        """Return the compiled form (`CompiledIntegerUNet`), for `compile_for_inference`."""
        from spikediff.systems.integer.compiled import CompiledIntegerUNet, Plans

        if self.device.type != "cpu":
            raise UserError(
                f"compile_for_inference: runs on the CPU, the model is on {self.device}"
            )
        view: CompiledIntegerUNet = self.view_as(CompiledIntegerUNet)
        view.plans = Plans()
        return view


# Arguments that `IntegerSpikingUNet` has too.
SHARED_SETTINGS = SpikingModel._get_init_keys(DeployedIntegerUNet) - {"weight_bits", "execution"}


@dataclass(frozen=True)
class _IntegerParts:
    """Layers in integer arithmetic."""

    levels: int
    head_levels: int
    timesteps: int
    classes: int

    def neuron(self, channels: int, last: bool = False) -> nn.Module:
        return FixedPointNeuron(channels, self.head_levels if last else self.levels)

    def synapse(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        gain: float = 1.0,
    ) -> nn.Module:
        return IntegerSynapse(in_channels, out_channels, kernel_size, stride)

    def bias(self, channels: int) -> nn.Module:
        return StepTables(channels, self.timesteps, self.classes)

    def head(self, in_channels: int, out_channels: int) -> nn.Module:
        return IntegerSynapse(in_channels, out_channels, kernel_size=3, stride=1)


def _rows(given: Any, rows: int, what: str, device: torch.device, images: int) -> Tensor:
    """Return timesteps or classes as rows of a table [B or 1]; refuse those without a row."""
    values = one_or_each(what, given, images, device)
    whole = values.long()
    if torch.compiler.is_compiling():
        return whole
    wrong = (values != whole) | (whole < 0) | (whole >= rows)
    for value in values[wrong][:1].tolist():
        raise UserError(f"{what} {value:g}: must be an integer from 0 to {rows - 1}")
    return whole
