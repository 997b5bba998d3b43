"""Which input pixel every tap of a kernel reads, along one axis: the geometry of a convolution.

A table [out size, most, 2] lists, for every output position, the pairs (tap, input position) that
fall on the image; -1 ends the list. The kernels in C know no other geometry, so that stride,
padding, dilation and the transposed convolution are rows of a table.
"""

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=256)
def convolution_taps(
    size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
) -> Tensor:
    """Return the table of a convolution: output o reads o * stride + tap * dilation - padding.

    Example:
        >>> convolution_taps(3, kernel=3, stride=2, padding=2).tolist()
        [[[2, 0], [-1, -1], [-1, -1]], [[0, 0], [1, 1], [2, 2]], [[0, 2], [-1, -1], [-1, -1]]]
    """
    out = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    reads = [[(k, o * stride + k * dilation - padding) for k in range(kernel)] for o in range(out)]
    return _table(reads, size)


@lru_cache(maxsize=256)
def transposed_taps(
    size: int,
    kernel: int,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    output_padding: int = 0,
) -> Tensor:
    """Return the table of a transposed convolution: input i reaches i * stride + tap * dilation.

    Example:
        >>> transposed_taps(2, kernel=2, stride=2).tolist()
        [[[0, 0]], [[1, 0]], [[0, 1]], [[1, 1]]]
    """
    out = (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1
    reads: list[list[tuple[int, int]]] = []
    for o in range(out):
        behind = [(k, o + padding - k * dilation) for k in range(kernel)]
        reads.append([(k, at // stride) for k, at in behind if at % stride == 0])
    return _table(reads, size)


def _table(reads: list[list[tuple[int, int]]], size: int) -> Tensor:
    inside = [[pair for pair in row if 0 <= pair[1] < size] for row in reads]
    table = torch.full((len(inside), max(map(len, inside)), 2), -1, dtype=torch.int32)
    for o, row in enumerate(inside):
        if row:
            table[o, : len(row)] = torch.tensor(row, dtype=torch.int32)
    return table
