"""Convolutions as a graph holds them: the norm, the scaling and the timestep are folded in."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from spikediff.events.folding import norm_affine
from spikediff.layers import TemporalScaling, ThresholdNorm
from spikediff.layers.dimensions import Convolution


@dataclass(frozen=True)
class Kernel:
    """One convolution.

    Attributes:
        weight: [C_out, C_in, k, k].
        bias: [C_out].
        stride: Of rows and columns.
        padding: Zeros round the image.
    """

    weight: Tensor
    bias: Tensor
    stride: int
    padding: int

    def out_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape [C_out, H', W'] of the result for an input [C_in, H, W]."""
        size = self.weight.shape[-1]
        sides = ((side + 2 * self.padding - size) // self.stride + 1 for side in shape[1:])
        return (self.weight.shape[0], *sides)

    def split(self, widths: Sequence[int]) -> list["Kernel"]:
        """Return a kernel for each part of the result, which has so many channels."""
        weights = torch.split(self.weight, list(widths))
        biases = torch.split(self.bias, list(widths))
        return [replace(self, weight=w, bias=b) for w, b in zip(weights, biases, strict=True)]

    def split_inputs(self, widths: Sequence[int]) -> list["Kernel"]:
        """Return a kernel for each part of the input; the first has the bias of the sum."""
        weights = torch.split(self.weight, list(widths), dim=1)
        nothing = torch.zeros_like(self.bias)
        first = replace(self, weight=weights[0])
        return [first, *(replace(self, weight=w, bias=nothing) for w in weights[1:])]


def fold(
    conv: Convolution,
    norm: nn.Module | None = None,
    scaling: nn.Module | None = None,
    bias: Tensor | None = None,
) -> Kernel:
    r"""Return $BN(p\,\mathrm{Conv}(x)) + b$ as one convolution, computed in float64.

    Args:
        conv: The convolution, of images.
        norm: Norm behind it, in evaluation.
        scaling: Factor between the two, the same at every spiking step.
        bias: b [C_out], what joins behind the norm.

    Example:
        >>> conv, norm = nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=0.0)
        >>> norm.running_mean += 3.0
        >>> fold(conv, norm, bias=torch.ones(1)).bias.item()
        -2.0
    """
    assert isinstance(conv, nn.Conv2d)  # offences.py has refused those of signals
    weight = conv.weight.detach().double()
    offset = torch.zeros(len(weight)).double() if conv.bias is None else conv.bias.detach().double()
    if isinstance(scaling, TemporalScaling):
        factor = scaling.p.detach().double().flatten()[0]
        weight, offset = factor * weight, factor * offset
    if isinstance(norm, nn.BatchNorm2d | ThresholdNorm):
        gain, shift = norm_affine(norm)
        weight, offset = gain.view(-1, 1, 1, 1) * weight, gain * offset + shift
    if bias is not None:
        offset = offset + bias.detach().double()
    kind = conv.weight.dtype
    return Kernel(weight.to(kind), offset.to(kind), conv.stride[0], _zeros(conv))


def _zeros(conv: nn.Conv2d) -> int:
    padding = conv.padding
    assert isinstance(padding, tuple)  # every convolution of this library says it in numbers
    return padding[0]
