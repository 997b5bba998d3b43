"""What stands before a neuron: windows of spikes or currents, and linear maps behind them.

Populations of neurons, and everything that drives them.

A network as a chip has it: populations of neurons, and synapses between them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Protocol

import torch
from torch import Tensor, nn

from spikediff.errors import UserError
from spikediff.layers import ThresholdNorm, nearest_upsample
from spikediff.layers.coding import mean
from spikediff.layers.conv import Convolution
from spikediff.layers.time import over_time
from spikediff.neurons import Memory, NeuronLayer, NeuronState
from spikediff.systems.fsddim.blocks import SynapticResampling, average_downsample, same_size
from spikediff.systems.fsddim.merged.synapses import (
    RegionalSynapse,
    UniformSynapse,
    behind_average,
    composite,
    regional_kernels,
    regions,
    scaled,
)

Affine = Convolution | None  # the convolution of a consumer; None where it is a norm alone


@dataclass(frozen=True)
class Prefix:
    """A convolution that stands behind a source with no neuron behind it.

    Attributes:
        conv: The convolution, in float64.
        factor: 2 where every pixel of the source is doubled before, 1 where not.
        averages: Whether every four pixels of the source are averaged before.
    """

    conv: nn.Conv2d
    factor: int = 1
    averages: bool = False


@dataclass(frozen=True)
class Part:
    """Some channels of what a consumer sees.

    Attributes:
        source: Name of the population, or of the input.
        channels: Channels that the consumer sees.
        size: Height and width that it sees.
        prefix: What stands between; None where it sees the source itself.
    """

    source: str
    channels: int
    size: int
    prefix: Prefix | None = None

    def at_rest(self) -> Tensor:
        """Return what the consumer sees while the source is zero [C, H, W], float64."""
        bias = None if self.prefix is None else self.prefix.conv.bias
        levels = torch.zeros(self.channels, dtype=torch.float64) if bias is None else bias
        return levels.view(-1, 1, 1).expand(-1, self.size, self.size)


def resampled(part: Part, module: SynapticResampling) -> Part:
    """Return a part behind a resampling, of which norm and neurons are left to the consumer."""
    factors: dict[object, float] = {average_downsample: 0.5, nearest_upsample: 2.0, same_size: 1.0}
    factor, conv = factors[module.resize], module.conv
    assert part.prefix is None
    prefix = Prefix(conv, factor=max(1, int(factor)), averages=factor < 1.0)
    return Part(part.source, conv.out_channels, int(part.size * factor), prefix)


def gain_of(norm: nn.Module, channels: int) -> Tensor:
    """Return the factor [C] that a norm in evaluation multiplies by; 1 for no norm."""
    if not isinstance(norm, ThresholdNorm):
        return torch.ones(channels, dtype=torch.float64)
    return norm.gain / torch.sqrt(norm.running_var + norm.eps)


def merged_synapses(parts: Sequence[Part], conv: Affine, norm: nn.Module) -> dict[str, nn.Module]:
    """Return one synapse per source that does what `norm(conv(cat(parts)))` does, constants aside.

    Args:
        parts: What the consumer sees, concatenated.
        conv: Its convolution; None for a norm alone, of which every channel sees itself.
        norm: Its norm in evaluation, or an identity.
    """
    if conv is None:
        (part,) = parts  # no norm stands alone behind a concatenation
        return {part.source: _one_to_one(part, gain_of(norm, part.channels))}
    kernel = scaled(conv.weight, gain_of(norm, conv.out_channels))  # [O, M, k, k]
    ends = [0, *accumulate(part.channels for part in parts)]
    synapses = {
        part.source: _merged(part, kernel[:, start:end])
        for part, (start, end) in zip(parts, pairwise(ends), strict=True)
    }
    assert len(synapses) == len(parts), "a source enters a consumer once"
    return synapses


def constant_current(
    parts: Sequence[Part], conv: Affine, norm: nn.Module, more: Tensor | None = None
) -> Tensor:
    """Return what flows while no source is active: [C, H, W], float64.

    It is the original chain itself, run on what the prefixes make of zeros.

    Args:
        parts: As of `merged_synapses`.
        conv: As of `merged_synapses`.
        norm: As of `merged_synapses`.
        more: Current [C] that joins before the norm.
    """
    x = torch.cat([part.at_rest() for part in parts])[None]  # [1, M, H, W]
    current: Tensor = x if conv is None else conv(x)
    if more is not None:
        current = current + more.view(-1, 1, 1)
    normed: Tensor = norm(current)
    return normed[0]


def shrunk(constant: Tensor) -> Tensor:
    """Return a constant current [C, H, W] as [C, 1, 1] where all places of a channel are equal."""
    level = constant[:, :1, :1]
    return (level if torch.equal(level.expand_as(constant), constant) else constant).clone()


def _one_to_one(part: Part, gain: Tensor) -> nn.Module:
    if part.prefix is None:
        return UniformSynapse(gain.view(-1, 1, 1, 1).clone(), groups=part.channels)
    return _merged(part, gain.diag()[..., None, None])


def _merged(part: Part, kernel: Tensor) -> nn.Module:
    """Return the synapse from a part's source to a consumer of this kernel [O, M, k, k]."""
    prefix, taps = part.prefix, kernel.shape[-1]
    if prefix is None:
        return UniformSynapse(kernel.clone(), padding=taps // 2)
    weight = prefix.conv.weight  # [M, I, b, b]
    if prefix.averages:
        return UniformSynapse(behind_average(kernel, weight), 2, padding=2 * (taps // 2))
    if prefix.factor == 1 and 1 in (taps, weight.shape[-1]):
        kernel = composite(kernel, weight)
        return UniformSynapse(kernel, padding=kernel.shape[-1] // 2)
    places = regions(part.size, taps, weight.shape[-1], prefix.factor)
    return RegionalSynapse(regional_kernels(kernel, weight, places), places)


class TimestepCurrents(nn.Module):
    """The timestep at every spiking step: a row of a table, a neuron, a synapse.

    What real numbers the original computes from a timestep depends on the timestep alone, so
    the table holds the currents that they become.

    Args:
        table: Currents of the first neurons [num_train_timesteps, E].
        neuron: Those neurons.
        synapse: Linear map of their spikes [E] -> [E].

    Shape: [B] -> [T, B, E].
    """

    table: Tensor

    def __init__(self, table: Tensor, neuron: nn.Module, synapse: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("table", table)
        self.neuron = neuron
        self.synapse = synapse

    def forward(self, timestep: Tensor, spiking_steps: int, memory: Memory | None = None) -> Tensor:
        """Return the currents of timesteps [B] over so many spiking steps.

        Raises:
            UserError: A timestep is fractional, or not in the table.
        """
        row = timestep.long()
        if not torch.equal(row.to(timestep.dtype), timestep):
            raise UserError(
                f"merged network: timestep {timestep.tolist()} is fractional, and the table of "
                "currents has none for it; take a scheduler with whole timesteps"
            )
        if row.min() < 0 or row.max() >= len(self.table):
            raise UserError(
                f"merged network: timestep {timestep.tolist()} lies outside of the table of "
                f"{len(self.table)} rows"
            )
        current = self.table[row].expand(spiking_steps, -1, -1)  # [T, B, E]
        return over_time(self.synapse, self.neuron(current, memory))


class TimestepDrive(nn.Module):
    """What the timestep adds to one population: the same to every neuron of a channel.

    Args:
        neuron: Neurons that the timestep's currents drive.
        synapse: Linear map of their spikes [E] -> [C], without bias.

    Shape: [T, B, E] -> [T, B, C, 1, 1].
    """

    def __init__(self, neuron: nn.Module, synapse: nn.Linear) -> None:
        super().__init__()
        self.neuron = neuron
        self.synapse = synapse

    def forward(self, embedding: Tensor, memory: Memory | None = None) -> Tensor:
        """Return the current."""
        return over_time(self.synapse, self.neuron(embedding, memory))[..., None, None]


class Population(nn.Module):
    """Neurons that fire by what their synapses bring; or a read-out, which has no neurons.

    Args:
        synapses: By the name of their source.
        constant: Current that flows without any spike [C, H, W] or [C, 1, 1].
        neuron: The neurons; None for a read-out.
        drive: What the timestep adds.
    """

    constant: Tensor

    def __init__(
        self,
        synapses: Mapping[str, nn.Module],
        constant: Tensor,
        neuron: nn.Module | None = None,
        drive: TimestepDrive | None = None,
    ) -> None:
        super().__init__()
        self.synapses = nn.ModuleDict(synapses)
        self.register_buffer("constant", constant)
        self.neuron = neuron
        self.drive = drive

    def forward(
        self, sources: Mapping[str, Tensor], embedding: Tensor, memory: Memory | None = None
    ) -> Tensor:
        """Return the spikes, or the currents of a read-out.

        Args:
            sources: Windows [T, B, C', H', W'] by name, among them those of all synapses.
            embedding: The timestep's currents [T, B or 1, E].
            memory: As in `spikediff.neurons.NeuronLayer.forward`.
        """
        current = sum(
            (synapse(sources[name]) for name, synapse in self.synapses.items()), self.constant
        )  # [T, B, C, H, W]
        if self.drive is not None:
            current = current + self.drive(embedding, memory)
        return current if self.neuron is None else self.neuron(current, memory)


Timestep = Tensor | float | int


class SynapticGraph(nn.Module):
    """Run populations one after the other, each once in a spiking step.

    Args:
        timestep: What makes currents of the timestep.
        populations: By name, in an order in which sources come before their targets.
        inputs: Channels of the input currents by the name of the source that they are; a window's
            channels are those of all inputs, one after the other.
        outputs: Names of the populations of which the currents are the output, one after the other.
        sample_size: Height and width of the images.
    """

    def __init__(
        self,
        timestep: TimestepCurrents,
        populations: Mapping[str, Population],
        inputs: Mapping[str, int],
        outputs: Sequence[str],
        sample_size: int,
    ) -> None:
        super().__init__()
        self.timestep = timestep
        self.populations = nn.ModuleDict(populations)
        self.inputs = dict(inputs)
        self.outputs = tuple(outputs)
        self.sample_size = sample_size
        self._last_use = _last_use(populations)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.timestep.table.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.timestep.table.device

    def forward(self, window: Tensor, timestep: Timestep, memory: Memory | None = None) -> Tensor:
        """Return the output currents [T, B, C_out, H, W] for currents [T, B, C, H, W].

        Args:
            window: Currents of all inputs.
            timestep: Diffusion timestep, a whole number, one for all or one per image [B].
            memory: As in `spikediff.neurons.NeuronLayer.forward`.

        Raises:
            UserError: Channels or size do not fit, or the table has no such timestep.
        """
        self._check(window)
        rows = torch.as_tensor(timestep, device=window.device).reshape(-1)  # [B or 1]
        embedding = self.timestep(rows, len(window), memory)  # [T, B or 1, E]
        parts = torch.split(window, list(self.inputs.values()), dim=2)
        sources = dict(zip(self.inputs, parts, strict=True))
        for name, population in self.populations.items():
            sources[name] = population(sources, embedding, memory)
            for source in self._last_use.get(name, ()):
                if source not in self.outputs:
                    del sources[source]
        return torch.cat([sources[name] for name in self.outputs], dim=2)

    def step(
        self, current: Tensor, timestep: Timestep, state: Mapping[str, NeuronState] | None
    ) -> tuple[Tensor, dict[str, NeuronState]]:
        """Run one spiking step: currents [B, C, H, W] -> [B, C_out, H, W], and the new state.

        Raises:
            UserError: As `forward`, or the state is another network's.
        """
        layers = {n: m for n, m in self.named_modules() if isinstance(m, NeuronLayer)}
        if state is not None and state.keys() != layers.keys():
            raise UserError("merged network: the state is that of another network")
        memory = {layers[name]: value for name, value in (state or {}).items()}
        output = self(current[None], timestep, memory)
        return output[0], {name: memory[layer] for name, layer in layers.items()}

    def _check(self, window: Tensor) -> None:
        want = (sum(self.inputs.values()), self.sample_size, self.sample_size)
        if window.dim() != 5 or tuple(window.shape[2:]) != want:
            raise UserError(
                f"merged network: expects currents [T, B, {', '.join(map(str, want))}], got "
                f"{list(window.shape)}; synapses are merged for one image size, that of the "
                "model's sample_size"
            )


def _last_use(populations: Mapping[str, Population]) -> dict[str, list[str]]:
    """Return the sources that nobody needs any more, by the last population that does."""
    user = {source: name for name, p in populations.items() for source in p.synapses}
    spent: dict[str, list[str]] = {}
    for source, name in user.items():
        spent.setdefault(name, []).append(source)
    return spent


class GraphOfImages(Protocol):
    """A graph, and how images become the currents that it takes."""

    graph: SynapticGraph

    def first_currents(self, noise: Tensor) -> Tensor:
        """Return currents of images [B, C, H, W], equal at all spiking steps."""

    def image_currents(self, currents: Tensor) -> Tensor:
        """Return the currents [T, B, C, H, W] of which the mean is the image."""


def answer(network: GraphOfImages, sample: Tensor, timestep: Timestep) -> Tensor:
    """Return the currents that a network answers a window [T, B, C, H, W], or the mean image."""
    if sample.dim() == 5:
        window: Tensor = network.graph(sample, timestep)
        return window
    window = network.graph(network.first_currents(sample), timestep)
    return mean(network.image_currents(window))
