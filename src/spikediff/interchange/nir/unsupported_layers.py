"""Layers that NIR cannot express, with the reason and a remedy for each."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from spikediff.errors import UserError
from spikediff.interchange.nir.graph import neuron_problem
from spikediff.interchange.nir.networks import LOWERINGS
from spikediff.interchange.programs import (
    ANY_BATCH_SIZE,
    ONE_BATCH_SIZE,
    TORCH_ONLY,
    check_original,
    class_among,
)
from spikediff.layers import (
    ClassEmbedding,
    TemporalScaling,
    ThresholdNorm,
    TimestepEmbedding,
    WindowDropout,
    nearest_upsample,
)
from spikediff.neurons import NeuronLayer
from spikediff.tables import column_table

_MANY = 3  # up to this many layers of a kind are listed individually

_ONE_LEVEL = "train with one level, channel_mult: [1]"
_HOST = "leave the autoencoder to the host"
_OTHER_FORMAT = "export to onnx or torch"
_SPIKING = "train a spiking network"
_TIMESTEP = (
    "neurons of the timestep: a bias that differs by step",
    "train a spiking_unet, whose timestep is a bias",
)
_WINDOW = (
    "a neuron that waits for its whole window and then emits its count: IF in NIR fires at once",
    "a chip with graded spikes runs it (docs/systems/integer.md)",
)

UNSUPPORTED: Mapping[str, tuple[str, str]] = {
    "IntegerNeuron": _WINDOW,
    "FixedPointNeuron": _WINDOW,
    "Doubling": ("nearest upsampling", "train with one level, block_out_channels: [48]"),
    "StepTables": ("a bias that is looked up by timestep and class", "export a graph per timestep"),
    "FixedPointStem": ("an image in fixed point", "export to torch"),
    "IntegerSynapse": ("integer weights", "export to torch"),
    "Head": ("real-valued Swish", "train with spiking_head: true"),
    "Upsample": ("nearest upsampling", _ONE_LEVEL),
    "SpikingTimestepEmbedding": _TIMESTEP,
    "PostActivationBlock": _TIMESTEP,
    "BernoulliLatent": (
        "random draws",
        "export the latent's samples as input; NIR has no random numbers",
    ),
    "VectorQuantiser": ("nearest-code lookup", "export the second stage, the decoder of tokens"),
    "SpikeFeature": ("a read-out inside the network", "export the second stage"),
    "ConvTranspose2d": ("transposed convolution", _HOST),
    "ConvTranspose1d": ("transposed convolution", _HOST),
    "SiLU": ("real-valued Swish", _SPIKING),
    "ReLU": ("real-valued ReLU", _SPIKING),
    "GroupNorm": ("statistics per image", _SPIKING),
    "MaxPool2d": ("max pooling", "train with a convolution of stride 2"),
}
"""Reason and remedy, by the name of a layer's class or of one of its base classes.

The keys are names, so that an export imports only systems that it can export."""

_SUPPORTED = (
    nn.Conv2d,
    nn.Conv1d,  # reported once, by _of_signals
    nn.BatchNorm2d,
    nn.BatchNorm1d,
    nn.Identity,
    ClassEmbedding,
    nn.Embedding,
    nn.Linear,
    ThresholdNorm,
    TimestepEmbedding,
    WindowDropout,
    TemporalScaling,
    NeuronLayer,
)


class UnsupportedLayer(NamedTuple):
    """A layer that NIR cannot express."""

    name: str  # its name in the network
    kind: str  # its type
    reason: str  # the feature that NIR lacks
    remedy: str  # what to do instead

    def __str__(self) -> str:
        return f"{self.name} ({self.kind}): {self.reason}; {self.remedy}"


class UnsupportedLayersError(UserError):
    """NIR cannot express a network; the message has a row for each kind of such layers.

    Attributes:
        layers: The layers, from input to output.
        gist: The message without the rows.
    """

    def __init__(self, model: nn.Module, layers: list[UnsupportedLayer]) -> None:
        self.layers = layers
        self.gist = (
            f"{type(model).__name__}: NIR cannot express {len(layers)} of its layers"
            f"{_other_formats(model)}"
        )
        rows = "; ".join(f"[{n}] {row}" for n, row in enumerate(_rows(layers), start=1))
        super().__init__(f"{self.gist}: {rows}")

    def table(self) -> str:
        """Return a table with a row for each kind of layer, 80 columns wide."""
        kinds = Counter(layer[1:] for layer in self.layers)
        rows = [(f"{kind}, {n}", why, what) for (kind, why, what), n in kinds.items()]
        header = ("layers", "what NIR cannot express", "what to do")
        return column_table([header, *rows], widths=(20, 30, 26))


def check_supported(model: nn.Module) -> None:
    """Refuse a network that NIR cannot express.

    Raises:
        UnsupportedLayersError: NIR cannot express some layers.
        UserError: The network was compiled for inference.
    """
    check_original(model)
    found = unsupported_layers(model)
    if found:
        raise UnsupportedLayersError(model, found)


def _rows(found: list[UnsupportedLayer]) -> list[str]:
    """Return a row for each layer, or one row for many layers that differ only by name."""
    alike: dict[tuple[str, ...], list[UnsupportedLayer]] = {}
    for layer in found:
        alike.setdefault(layer[1:], []).append(layer)
    rows: list[str] = []
    for group in alike.values():
        if len(group) > _MANY:
            group = [group[0]._replace(name=f"{group[0].name} and {len(group) - 1} more")]
        rows += map(str, group)
    return rows


def _other_formats(model: nn.Module) -> str:
    if class_among(model, ANY_BATCH_SIZE):
        return " (--format onnx and torch can)"
    if class_among(model, ONE_BATCH_SIZE):
        return " (--format onnx and torch can, with --batch-size 1)"
    if class_among(model, TORCH_ONLY):
        return " (--format torch can, with --batch-size 1)"
    return ""


def unsupported_layers(model: nn.Module) -> list[UnsupportedLayer]:
    """Return every layer of a network that NIR cannot express, from input to output.

    Example:
        >>> from spikediff import SpikingUNet
        >>> unet = SpikingUNet(8, 1, base_channels=8, channel_mult=(1, 2), layers_per_block=1)
        >>> [(layer.name, layer.reason) for layer in unsupported_layers(unet)]
        [('up_blocks.2', 'nearest upsampling'), ('head', 'real-valued Swish'), \
('readout', 'weights that differ by spiking step')]
    """
    config: Any = getattr(model, "config", {})
    found = _of_signals(model)
    if config.get("position_embedding"):
        reason = "currents that differ by position"
        remedy = "train without position_embedding"
        found.append(UnsupportedLayer("stem.position_embedding", "Parameter", reason, remedy))
    found += _below("", model)
    if config.get("readout") == "decayed_sum":
        reason, remedy = "weights that differ by spiking step", "train with readout: mean"
        found.append(UnsupportedLayer("readout", "decayed_sum", reason, remedy))
    if not found and type(model).__name__ not in LOWERINGS:
        known = f"known: {', '.join(LOWERINGS)}"
        found.append(UnsupportedLayer("the network", type(model).__name__, "no export", known))
    return found


def _of_signals(model: nn.Module) -> list[UnsupportedLayer]:
    """Return one row for all convolutions of signals, named after the first."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv1d)]
    reason = f"convolutions of signals, {len(names)}: NIR has Conv1d, this export does not yet"
    return [UnsupportedLayer(name, "Conv1d", reason, _OTHER_FORMAT) for name in names[:1]]


def _below(name: str, module: nn.Module) -> Iterator[UnsupportedLayer]:
    for key, child in module.named_children():
        place = f"{name}.{key}" if name else key
        problem = _problem(child)
        if problem is not None:
            yield UnsupportedLayer(place, type(child).__name__, *problem)
        elif not isinstance(child, _SUPPORTED):
            yield from _below(place, child)


def _problem(module: nn.Module) -> tuple[str, str] | None:
    """Return the reason and the remedy for the layer itself; None if NIR can express it."""
    if (kind := class_among(module, UNSUPPORTED)) is not None:
        return UNSUPPORTED[kind]
    if isinstance(module, NeuronLayer):
        return neuron_problem(module)
    if isinstance(module, TemporalScaling) and not _is_constant(module):
        return "factors that differ by spiking step", "train without temporal_scaling"
    if getattr(module, "resize", None) is nearest_upsample:
        return "nearest upsampling", _ONE_LEVEL
    if isinstance(module, nn.Conv2d) and not _is_plain(module):
        return "a convolution with groups, dilation or uneven padding", _OTHER_FORMAT
    containers = (nn.ModuleList, nn.Sequential)
    if isinstance(module, (*_SUPPORTED, *containers)) or any(True for _ in module.children()):
        return None
    return f"no node for {type(module).__name__}", _OTHER_FORMAT


def _is_constant(scaling: TemporalScaling) -> bool:
    factors = scaling.p.detach().flatten()
    return bool(torch.equal(factors, factors[:1].expand_as(factors)))


def _is_plain(conv: nn.Conv2d) -> bool:
    """Return whether a convolution has one group, no dilation, and equal values in both axes."""
    one_pixel = tuple(conv.kernel_size) == (1, 1)  # nothing to dilate, see layers/conv.py
    pairs: Any = (conv.stride, conv.padding, conv.kernel_size)
    return (
        conv.groups == 1
        and conv.padding_mode == "zeros"
        and (one_pixel or tuple(conv.dilation) == (1, 1))
        and all(isinstance(pair, tuple) and len(set(pair)) == 1 for pair in pairs)
    )
