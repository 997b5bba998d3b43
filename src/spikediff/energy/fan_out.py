"""How many targets one input element of a convolution reaches."""

from collections.abc import Sequence
from functools import cache
from math import prod

import numpy as np
from numpy.typing import NDArray


def fan_out_1d(
    size: int,
    out_size: int,
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
    transposed: bool = False,
) -> tuple[int, ...]:
    """Return the number of output positions that each input position reaches, along one axis.

    A convolution joins output o and input i where `i = o * stride - padding + k * dilation` for a
    kernel position k; a transposed one exchanges i and o. Positions in the padding reach nothing.

    Example:
        >>> fan_out_1d(size=4, out_size=4, kernel=3, stride=1, padding=1, dilation=1)
        (2, 3, 3, 2)
        >>> fan_out_1d(size=4, out_size=2, kernel=3, stride=2, padding=1, dilation=1)
        (1, 2, 1, 1)
    """
    reached = [0] * size
    for tap in range(kernel):
        offset = tap * dilation - padding
        if transposed:
            for i in range(size):
                reached[i] += 0 <= i * stride + offset < out_size
        else:
            for o in range(out_size):
                i = o * stride + offset
                if 0 <= i < size:
                    reached[i] += 1
    return tuple(reached)


@cache
def fan_out(
    sizes: tuple[int, ...],
    out_sizes: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    transposed: bool = False,
) -> NDArray[np.float64]:
    """Return the output positions that each input position reaches, float64 [*sizes].

    The axes are independent, so it is the outer product of the axes' own.
    """
    axes = zip(sizes, out_sizes, kernel, stride, padding, dilation, strict=True)
    result = np.ones(())
    for size, out_size, taps, step, border, spread in axes:
        along = fan_out_1d(size, out_size, taps, step, border, spread, transposed)
        result = result[..., None] * np.array(along, dtype=np.float64)
    return result


def dense_pairs(
    sizes: Sequence[int], out_sizes: Sequence[int], kernel: Sequence[int], transposed: bool = False
) -> int:
    """Return pairs of an input and an output position as FLOP counters count them.

    They multiply the zeros of the padding too, where the sum of `fan_out` leaves them out.
    """
    return prod(sizes if transposed else out_sizes) * prod(kernel)
