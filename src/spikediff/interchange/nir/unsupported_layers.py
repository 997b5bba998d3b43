"""What NIR has no word for: every layer of a network that cannot be exported, and what to do."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from spikediff.errors import UserError
from spikediff.interchange.nir.graph import neuron_problem
from spikediff.interchange.nir.networks import LOWERINGS
from spikediff.interchange.programs import ANY_BATCH_SIZE, ONE_BATCH_SIZE
from spikediff.layers import (
    ClassEmbedding,
    ConvNorm,
    SpikingLayer,
    TemporalScaling,
    ThresholdNorm,
    TimestepEmbedding,
    WindowDropout,
    nearest_upsample,
)
from spikediff.neurons import IntegerNeuron, NeuronLayer
from spikediff.systems.fsddim.blocks import (
    PostActivationBlock,
    SpikingTimestepEmbedding,
    SynapticResampling,
)
from spikediff.systems.fsvae.latent import BernoulliLatent
from spikediff.systems.integer.deployment import (
    FixedPointNeuron,
    FixedPointStem,
    IntegerSynapse,
    StepTables,
)
from spikediff.systems.integer.network import Doubling
from spikediff.systems.sddpm.blocks import (
    Downsample,
    Head,
    PlainBlock,
    PreSpikeBlock,
    Upsample,
)
from spikediff.systems.spiking_diffusion.blocks import SpikeFeature, SpikingDecoder
from spikediff.systems.spiking_diffusion.quantiser import VectorQuantiser


class Offence(NamedTuple):
    """A layer that NIR cannot express.

    Attributes:
        name: Of the layer in the network.
        kind: Its type.
        reason: What NIR lacks.
        remedy: What to do about it.
    """

    name: str
    kind: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        """Return all of it, in a line."""
        return f"{self.name} ({self.kind}): {self.reason}; {self.remedy}"


Judgement = tuple[str, str]  # reason and remedy

_MANY = 3  # layers that are named one by one

_ONE_LEVEL = "train with one level, channel_mult: [1]"
_HOST = "leave the autoencoder to the host"
_OTHER_FORMAT = "export to onnx or torch"
_SPIKING = "train a spiking network"
_TIMESTEP = "train a spiking_unet, whose timestep is a bias"

_WINDOW = (
    "a neuron that waits for its whole window and then emits its count: IF in NIR fires at once"
)
_GRADED = "a chip with graded spikes runs it (docs/systems/integer.md)"

REFUSED: Mapping[type[nn.Module], Judgement] = {
    IntegerNeuron: (_WINDOW, _GRADED),
    FixedPointNeuron: (_WINDOW, _GRADED),
    Doubling: ("nearest upsampling", "train with one level, block_out_channels: [48]"),
    StepTables: ("a bias that is looked up by timestep and class", "export a graph per timestep"),
    FixedPointStem: ("an image in fixed point", "export the network before to_integer"),
    IntegerSynapse: ("weights of whole numbers", "export the network before to_integer"),
    Head: ("Swish of real numbers", "train with spiking_head: true"),
    Upsample: ("nearest upsampling", _ONE_LEVEL),
    SpikingTimestepEmbedding: ("neurons of the timestep: a bias that differs by step", _TIMESTEP),
    PostActivationBlock: ("neurons of the timestep: a bias that differs by step", _TIMESTEP),
    BernoulliLatent: ("random draws", "export the latent's samples as input; NIR draws nothing"),
    VectorQuantiser: ("the nearest of codes", "export the second stage, the decoder of tokens"),
    SpikeFeature: ("a read-out inside the network", "export the second stage"),
    nn.ConvTranspose2d: ("transposed convolution", _HOST),
    nn.ConvTranspose1d: ("transposed convolution", _HOST),
    nn.SiLU: ("Swish of real numbers", _SPIKING),
    nn.ReLU: ("a rectifier of real numbers", _SPIKING),
    nn.GroupNorm: ("statistics of the single image", _SPIKING),
    nn.MaxPool2d: ("a maximum", "train with a convolution of stride 2"),
}
# What a walk takes apart, or what it folds; layers below the former are judged by themselves.
TAKEN_APART = (
    nn.ModuleList,
    nn.Sequential,
    ConvNorm,
    Downsample,
    PlainBlock,
    PreSpikeBlock,
    SpikingLayer,
    SynapticResampling,
    SpikingDecoder,
)
EXPRESSED = (
    nn.Conv2d,
    nn.Conv1d,  # told once, by _of_signals
    nn.BatchNorm2d,
    nn.BatchNorm1d,
    nn.Identity,
    ClassEmbedding,
    nn.Embedding,
    nn.Linear,
    ThresholdNorm,
    TimestepEmbedding,
    WindowDropout,
)


def check_expressible(model: nn.Module) -> None:
    """Refuse a network that NIR cannot express.

    Raises:
        UserError: With every layer that stands in the way.
    """
    found = offences(model)
    if found:
        rows = "; ".join(f"[{n}] {row}" for n, row in enumerate(_rows(found), start=1))
        raise UserError(
            f"{type(model).__name__}: NIR cannot express {len(found)} of its layers"
            f"{_other_formats(model)}: {rows}"
        )


def _rows(found: Sequence[Offence]) -> list[str]:
    """Return a row for each offence, or one for many that differ by name only."""
    alike: dict[tuple[str, ...], list[Offence]] = {}
    for offence in found:
        alike.setdefault(offence[1:], []).append(offence)
    rows: list[str] = []
    for group in alike.values():
        if len(group) > _MANY:
            group = [group[0]._replace(name=f"{group[0].name} and {len(group) - 1} more")]
        rows += map(str, group)
    return rows


def _other_formats(model: nn.Module) -> str:
    """Return which formats can, and how; nothing of what is no denoiser."""
    if isinstance(model, ANY_BATCH_SIZE):
        return " (--format onnx and torch can)"
    if isinstance(model, ONE_BATCH_SIZE):
        return " (--format onnx and torch can, with --batch-size 1)"
    return ""


def offences(model: nn.Module) -> list[Offence]:
    """Return every layer of a network that NIR cannot express, from the input to the output.

    Args:
        model: The network.

    Example:
        >>> from spikediff import SpikingUNet
        >>> unet = SpikingUNet(8, 1, base_channels=8, channel_mult=(1, 2), layers_per_block=1)
        >>> [(offence.name, offence.reason) for offence in offences(unet)]
        [('up_blocks.2', 'nearest upsampling'), ('head', 'Swish of real numbers'), \
('readout', 'weights that differ by spiking step')]
    """
    found = [*_of_signals(model), *_of_places(model), *_below("", model)]
    readout = getattr(getattr(model, "config", None), "readout", "mean")
    if readout == "decayed_sum":
        what, remedy = "weights that differ by spiking step", "train with readout: mean"
        found.append(Offence("readout", readout, what, remedy))
    if not found and type(model) not in LOWERINGS:
        known = ", ".join(kind.__name__ for kind in LOWERINGS)
        found.append(Offence("the network", type(model).__name__, "no export", f"known: {known}"))
    return found


def _of_signals(model: nn.Module) -> list[Offence]:
    """Return one offence for all convolutions of signals, named by the first of them."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv1d)]
    reason = f"convolutions of signals, {len(names)}: NIR has Conv1d, this export not yet"
    return [Offence(name, "Conv1d", reason, _OTHER_FORMAT) for name in names[:1]]


def _of_places(model: nn.Module) -> list[Offence]:
    """Return one offence for currents that differ from place to place."""
    if not getattr(getattr(model, "config", None), "position_embedding", False):
        return []
    reason = "currents that differ from place to place"
    remedy = "train without position_embedding"
    return [Offence("stem.position_embedding", "Parameter", reason, remedy)]


def _below(name: str, module: nn.Module) -> Iterator[Offence]:
    """Yield the offences of the layers below a module."""
    for key, child in module.named_children():
        place = f"{name}.{key}" if name else key
        judgement = _judge(child)
        if judgement is not None:
            yield Offence(place, type(child).__name__, *judgement)
        elif not isinstance(child, (*EXPRESSED, TemporalScaling, NeuronLayer)):
            yield from _below(place, child)


def _judge(module: nn.Module) -> Judgement | None:
    """Return what is wrong with a layer itself; None where nothing is."""
    for kind, judgement in REFUSED.items():
        if isinstance(module, kind):
            return judgement
    if isinstance(module, NeuronLayer):
        return neuron_problem(module)
    if isinstance(module, TemporalScaling) and not _is_constant(module):
        return "factors that differ by spiking step", "train without temporal_scaling"
    if isinstance(module, SynapticResampling) and module.resize is nearest_upsample:
        return "nearest upsampling", _ONE_LEVEL
    if isinstance(module, nn.Conv2d) and not _is_plain(module):
        return "a convolution with groups, or zeros of other widths", _OTHER_FORMAT
    known = (*TAKEN_APART, *EXPRESSED, TemporalScaling)
    if isinstance(module, known) or any(True for _ in module.children()):
        return None
    return f"no node for {type(module).__name__}", _OTHER_FORMAT


def _is_constant(scaling: TemporalScaling) -> bool:
    factors = scaling.p.detach().flatten()
    return bool(torch.equal(factors, factors[:1].expand_as(factors)))


def _is_plain(conv: nn.Conv2d) -> bool:
    """Return whether a convolution has one group, one stride and one width of zeros."""
    one_tap = tuple(conv.kernel_size) == (1, 1)  # nothing to dilate, see layers/conv.py
    pairs: Sequence[Any] = (conv.stride, conv.padding, conv.kernel_size)
    return (
        conv.groups == 1
        and conv.padding_mode == "zeros"
        and (one_tap or tuple(conv.dilation) == (1, 1))
        and all(isinstance(pair, tuple) and len(set(pair)) == 1 for pair in pairs)
    )
