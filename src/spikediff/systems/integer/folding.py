"""From a trained network to integers: norms and amplitudes fold into the weights."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikediff.diffusion.classes import class_names, name_classes
from spikediff.errors import UserError, kind_of
from spikediff.files.tensors import check_finite
from spikediff.layers.norm import BatchNorm2d
from spikediff.neurons import IntegerNeuron
from spikediff.systems.integer.deployment import SHARED_SETTINGS, DeployedIntegerUNet
from spikediff.systems.integer.network import CountConv2d, IntegerSpikingUNet, StepBias, Synapse
from spikediff.systems.integer.skeleton import Block, Doubling, Resample, through_skeleton
from spikediff.systems.integer.weights import FRACTION_BITS
from spikediff.systems.integer.whole_layers import (
    Call,
    FixedPointNeuron,
    FixedPointStem,
    IntegerSynapse,
    StepTables,
)

_LIMIT = 2**31  # of a current


def to_integer(unet: IntegerSpikingUNet, weight_bits: int = 8) -> DeployedIntegerUNet:
    """Return a trained network in integer arithmetic.

    Norms and the amplitudes of spikes fold into the weights; the embeddings of timesteps and
    classes become tables.

    Args:
        unet: The network.
        weight_bits: 8, 6 or 4.

    Raises:
        UserError: The network is the ordinary counterpart, or has a layer without an integer form;
            the number of bits is unsupported; currents might overflow 32 bits; or a weight is not
            finite.
    """
    if not isinstance(unet, IntegerSpikingUNet):
        raise UserError(f"to_integer: {kind_of(unet)} has no integer form; only IntegerSpikingUNet")
    config = unet.config
    if config.activation != "integer":
        raise UserError(
            f"to_integer: activation {config.activation!r} emits no counts; only 'integer' does"
        )
    check_finite(unet.state_dict(), "to_integer")
    settings = {key: value for key, value in config.items() if key in SHARED_SETTINGS}
    form: DeployedIntegerUNet = DeployedIntegerUNet(**settings, weight_bits=weight_bits)
    name_classes(form, class_names(unet))
    with torch.no_grad():
        _copy(unet, form)
    _check_range(form)
    return form


def _copy(unet: IntegerSpikingUNet, form: DeployedIntegerUNet) -> None:
    parts, targets = dict(unet.named_modules()), dict(form.named_modules())
    for name, part in parts.items():
        embeds = name.startswith(("time_embedding", "class_embedding"))
        if not embeds and type(part) not in _FOLDABLE:
            raise UserError(f"to_integer: {name} is {kind_of(part)}, which does not fold")
    timesteps = torch.arange(unet.config.num_train_timesteps, device=unet.device)
    embedded = F.silu(unet.time_embedding(timesteps))  # [N, E]
    form.stem.copy_from(unet.stem)
    for name, target in targets.items():
        if isinstance(target, FixedPointNeuron):
            target.copy_from(parts[name])
        elif isinstance(target, StepTables):
            target.copy_from(*_tables(unet, parts[name], embedded))
        elif isinstance(target, IntegerSynapse):
            block, _, leaf = name.rpartition(".")
            source = parts[f"{block}.{_SOURCES[leaf]}".strip(".")]
            target.copy_from(*parts[name].folded(source))


_FOLDABLE = (
    *(IntegerSpikingUNet, Block, Resample, Synapse, CountConv2d, StepBias, IntegerNeuron),
    *(nn.ModuleList, nn.Conv2d, BatchNorm2d, nn.Identity, Doubling),
)

# The neurons that feed a synapse, by its name in a block.
_SOURCES = {
    "synapse": "neuron",
    "synapse1": "neuron1",
    "synapse2": "neuron2",
    "shortcut": "neuron1",
    "head": "last_neuron",
}


def _tables(unet: IntegerSpikingUNet, bias: StepBias, embedded: Tensor) -> tuple[Tensor, Tensor]:
    """Return the biases of all timesteps [N, C] and of all classes and none [K + 1, C]."""
    of_timestep = F.linear(embedded, bias.weight, bias.bias)
    if unet.class_embedding is None:
        return of_timestep, torch.zeros_like(of_timestep[:1])
    return of_timestep, F.linear(unet.class_embedding.table.weight, bias.weight)


def _check_range(form: DeployedIntegerUNet) -> None:
    """Refuse a network whose currents might overflow, whatever the image."""
    for name, current in largest_currents(form).items():
        if current >= _LIMIT and name == "stem":  # its weights fill their bits, whatever their size
            raise UserError(
                f"to_integer: the stem's sums might reach {current:,}, which overflows 32 bits; "
                f"train with a smaller patch_size"
            )
        if current >= _LIMIT:
            raise UserError(
                f"to_integer: {name} might reach a current of {current / 2**FRACTION_BITS:,.0f}, "
                f"which overflows 32 bits; train with weight decay or lower levels"
            )


def largest_currents(form: DeployedIntegerUNet) -> dict[str, int]:
    """Return a bound on the currents of every layer of neurons, the stem's sums and the output.

    It is found by running the network with absolute weights on the largest image, because counts
    never fall when a current rises.
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
    """Return the largest sums for counts up to `counts` [1, C, H, W]: [1, C_out, 1, 1], int64."""
    weights = synapse.whole_weight.long().abs().sum((2, 3))  # [C_out, C]
    return (weights @ counts.long().amax((0, 2, 3)))[None, :, None, None]
