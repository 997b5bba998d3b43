"""What stands before a neuron: windows of spikes or currents, and linear maps behind them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from spikediff.layers import (
    SynapticResampling,
    ThresholdNorm,
    average_downsample,
    nearest_upsample,
    same_size,
)
from spikediff.layers.dimensions import Convolution
from spikediff.models.merged.kernels import (
    behind_average,
    composite,
    regional_kernels,
    regions,
    scaled,
)
from spikediff.models.merged.synapses import RegionalSynapse, UniformSynapse

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
