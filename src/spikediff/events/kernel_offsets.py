"""The geometry of a convolution along one axis: the input pixel that each kernel offset reads.

A table [out size, most, 2] lists, for every output position, the pairs (kernel offset, input
position) inside the image; -1 ends the list. The C kernels use only these tables, which express
stride, padding, dilation and transposition.
"""

from functools import lru_cache

import torch
from torch import Tensor

from spikediff.errors import UserError, shown

Sums = tuple[tuple[int, ...], ...]  # for each offset, the offsets of another kernel that it sums
_MOST = 1 << 16  # pixels along one axis


@lru_cache(maxsize=256)
def convolution_offsets(
    size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
) -> Tensor:
    """Return the table of a convolution: output o reads o * stride + k * dilation - padding.

    Example:
        >>> convolution_offsets(3, kernel=3, stride=2, padding=2).tolist()
        [[[2, 0], [-1, -1], [-1, -1]], [[0, 0], [1, 1], [2, 2]], [[0, 2], [-1, -1], [-1, -1]]]
    """
    _check(size, kernel, stride, padding, dilation)
    out = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    _check_outputs(out, size)
    reads = [[(k, o * stride + k * dilation - padding) for k in range(kernel)] for o in range(out)]
    return _table(reads, size)


@lru_cache(maxsize=256)
def transposed_offsets(
    size: int,
    kernel: int,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    output_padding: int = 0,
) -> Tensor:
    """Return the table of a transposed convolution: input i reaches i * stride + k * dilation.

    Example:
        >>> transposed_offsets(2, kernel=2, stride=2).tolist()
        [[[0, 0]], [[1, 0]], [[0, 1]], [[1, 1]]]
    """
    _check(size, kernel, stride, padding, dilation)
    out = (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1
    _check_outputs(out, size)
    reads = []
    for o in range(out):
        behind = [(k, o + padding - k * dilation) for k in range(kernel)]
        reads.append([(k, at // stride) for k, at in behind if at % stride == 0])
    return _table(reads, size)


@lru_cache(maxsize=256)
def doubled_offsets(
    size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
) -> tuple[Tensor, Sums]:
    """Return the table and sums of a convolution along an axis whose pixels are all repeated.

    Offsets that read the same pixel are merged, and their weights summed: a kernel of three has two
    offsets left at each output position. `size` counts pixels before repetition; the other
    arguments refer to repeated pixels. The sums list, for every offset in the table, the merged
    offsets of the kernel.

    Example:
        >>> table, sums = doubled_offsets(2, kernel=3, padding=1)
        >>> sums
        ((1, 2), (0, 1), (2,), (0,))
        >>> table.tolist()[1]  # reads the first pixel by two offsets, and the second by one
        [[1, 0], [2, 1]]
    """
    single = convolution_offsets(2 * size, kernel, stride, padding, dilation)
    sums: dict[tuple[int, ...], int] = {}
    reads = []
    for row in single.tolist():
        by_pixel: dict[int, tuple[int, ...]] = {}
        for k, at in row:
            if k >= 0:
                by_pixel[at // 2] = (*by_pixel.get(at // 2, ()), k)
        reads.append([(sums.setdefault(k, len(sums)), at) for at, k in by_pixel.items()])
    return _table(reads, size), tuple(sums)


def _check(size: int, kernel: int, stride: int, padding: int, dilation: int) -> None:
    given = {"size": size, "kernel": kernel, "stride": stride, "dilation": dilation}
    for name, value in (given | {"padding": padding}).items():
        least = 0 if name == "padding" else 1
        if type(value) is not int or not least <= value <= _MOST:
            raise UserError(
                f"convolution: {name} = {shown(value)} must be a whole number from {least} to "
                f"{_MOST:,}"
            )


def _check_outputs(out: int, size: int) -> None:
    if not 1 <= out <= _MOST:
        raise UserError(f"convolution: {size} pixels along an axis give {out} outputs")


def _table(reads: list[list[tuple[int, int]]], size: int) -> Tensor:
    inside = [[pair for pair in row if 0 <= pair[1] < size] for row in reads]
    most = max(1, *map(len, inside))
    table = torch.full((len(inside), most, 2), -1, dtype=torch.int32)
    for o, row in enumerate(inside):
        if row:
            table[o, : len(row)] = torch.tensor(row, dtype=torch.int32)
    return table
