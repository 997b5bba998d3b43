"""The integer layers of the deployment form, and the executions of its synapses."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from spikediff.neurons import CountNeuron, IntegerNeuron, unroll
from spikediff.systems.integer.convolution import (
    apply,
    change_conv2d,
    count_conv2d,
    event_conv2d,
    fixed_point_conv2d,
    silence,
)
from spikediff.systems.integer.weights import FRACTION_BITS, pack, to_whole, unpack

IMAGE_FRACTION_BITS = 12  # of 16: images reach from -8 to 8
_STEM_BITS = 10  # of the only layer with real-valued input


@dataclass
class Call:
    """Data of one call for every part.

    `timesteps` and `classes` are rows of the tables of biases [B or 1], `convolve` is the
    execution. `before` and `after` are the counts and sums of the synapses, in order, from the
    previous call and for the next one.
    """

    timesteps: Tensor
    classes: Tensor
    convolve: "Convolve"
    before: Iterator[tuple[Tensor, Tensor]]
    after: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class FixedPointNeuron(CountNeuron):
    """Neurons with integer thresholds: currents [B, C, H, W], int32 -> counts, uint8."""

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
        """Return the currents in units of a spike; with one level, in units of its threshold."""
        first = self.thresholds[0]
        unit = self.thresholds[1] - first if self.levels > 1 else first.abs()
        level = (current - first[:, None, None]) / unit.clamp(min=1)[:, None, None]
        return level + 0.5

    def copy_from(self, neuron: IntegerNeuron) -> None:
        r"""Set the thresholds $\theta (k - 1/2 - b)$, rounded up."""
        k = torch.arange(1, self.levels + 1, device=neuron.bias.device)[:, None]  # [D, 1]
        thresholds = (k - 0.5 - neuron.bias.double()) * neuron.theta.double()
        self.thresholds.copy_(_fixed(thresholds, torch.ceil))


class IntegerSynapse(nn.Module):
    """Counts -> current, with integer weights of 8, 6 or 4 bits; the kernel size is 3 or 1."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.shape = (out_channels, in_channels, kernel_size, kernel_size)
        self.stride, self.padding = stride, kernel_size // 2
        self.set_bits(8)
        self.shift = _whole(out_channels)
        self.bias = _whole(out_channels, dtype=torch.int32)

    def set_bits(self, bits: int) -> None:
        """Allocate weights of this many bits; the present ones are lost."""
        self.bits = bits
        self.weight = _whole(*pack(torch.zeros(self.shape, dtype=torch.int8), bits).shape)

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
        """Set weights including norm and amplitude [C_out, C, k, k], and a bias [C_out]."""
        whole, exponents = to_whole(weight, self.bits)
        self.weight.copy_(pack(whole.to(torch.int8), self.bits))
        self.shift.copy_(FRACTION_BITS - exponents)
        self.bias.copy_(_fixed(bias))


class StepTables(nn.Module):
    """The biases of timestep and class, as rows of two tables."""

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
        """Set biases [N, C] and [K + 1, C], in the finest unit that represents them all."""
        peak = max(float(of_timestep.abs().max()), float(of_class.abs().max()), 2.0**-60)
        bits = min(FRACTION_BITS, int(torch.tensor((2**15 - 1) / peak).log2().floor()))
        self.of_timestep.copy_(_fixed(of_timestep, bits=bits))
        self.of_class.copy_(_fixed(of_class, bits=bits))
        self.shift.fill_(FRACTION_BITS - bits)


class FixedPointStem(nn.Module):
    """The first convolution, of an image in fixed point: the network's only dense input."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = _whole(out_channels, in_channels, 3, 3, dtype=torch.int16)
        self.exponent = _whole(out_channels)
        self.bias = _whole(out_channels, dtype=torch.int32)

    def forward(self, image: Tensor) -> Tensor:
        """Return the current [B, C_out, H, W], int32, of an image [B, C, H, W], int16."""
        return self.rescaled(apply(fixed_point_conv2d, image, self.weight, 1, 1))

    def rescaled(self, sums: Tensor) -> Tensor:
        """Return the current for sums [B, C_out, H, W], in units of 2^-16; halves round up."""
        right, left = (shift.to(sums.dtype)[:, None, None] for shift in self.shifts())
        half = (1 << right) >> 1
        return (((sums + half) >> right) << left) + self.bias[:, None, None]

    def shifts(self) -> tuple[Tensor, Tensor]:
        """Return the right shifts of the sums, and the following left shifts [C_out]."""
        excess = IMAGE_FRACTION_BITS - FRACTION_BITS + self.exponent.int()
        return excess.clamp(min=0), (-excess).clamp(min=0)

    def copy_from(self, conv: nn.Conv2d) -> None:
        """Set the weights from a real-valued convolution."""
        whole, exponents = to_whole(conv.weight, _STEM_BITS)
        self.weight.copy_(whole)
        self.exponent.copy_(exponents)
        assert conv.bias is not None
        self.bias.copy_(_fixed(conv.bias))


# An execution: sums [B, C_out, H', W'] of counts 0..levels through a synapse.
Convolve = Callable[[Tensor, int, IntegerSynapse, Call], Tensor]


def _by_counts(counts: Tensor, _levels: int, synapse: IntegerSynapse, _call: Call) -> Tensor:
    return apply(count_conv2d, counts, synapse.whole_weight, synapse.stride, synapse.padding)


def _by_spikes(counts: Tensor, levels: int, synapse: IntegerSynapse, call: Call) -> Tensor:
    spikes = unroll(counts, levels).flatten(0, 1)  # [D * B, C, H, W]
    sums = _by_counts(spikes, 1, synapse, call)
    return sums.view(levels, len(counts), *sums.shape[1:]).sum(0, dtype=torch.int32)


def _by_events(counts: Tensor, _levels: int, synapse: IntegerSynapse, _call: Call) -> Tensor:
    return apply(event_conv2d, counts, synapse.whole_weight, synapse.stride, synapse.padding)


def _by_changes(counts: Tensor, levels: int, synapse: IntegerSynapse, call: Call) -> Tensor:
    weight, geometry = synapse.whole_weight, (synapse.stride, synapse.padding)
    before = next(call.before, None)
    if before is None:  # from zero: no spikes before
        before = (torch.zeros_like(counts), silence(counts, weight, *geometry))
    sums = apply(change_conv2d, counts, *before, weight, *geometry)
    call.after.append((counts, sums))
    return sums


EXECUTIONS: dict[str, Convolve] = {
    "counts": _by_counts,
    "spikes": _by_spikes,
    "events": _by_events,
    "delta": _by_changes,
}


def _whole(*size: int, dtype: torch.dtype = torch.int8) -> nn.Parameter:
    return nn.Parameter(torch.zeros(size, dtype=dtype), requires_grad=False)


def _fixed(
    values: Tensor, rounding: Callable[[Tensor], Tensor] = torch.round, bits: int = FRACTION_BITS
) -> Tensor:
    """Return real values as multiples of 2^-bits."""
    return rounding(values.double() * 2.0**bits)
