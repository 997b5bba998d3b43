"""Which input pixel every tap of a kernel reads, along one axis: the geometry of a convolution.

A table [out size, most, 2] lists, for every output position, the pairs (tap, input position) that
fall on the image; -1 ends the list. The kernels in C know no other geometry, so that stride,
padding, dilation and the transposed convolution are rows of a table.
"""

from functools import lru_cache

import torch
from torch import Tensor

from spikediff.errors import UserError, shown


@lru_cache(maxsize=256)
def convolution_taps(
    size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
) -> Tensor:
    """Return the table of a convolution: output o reads o * stride + tap * dilation - padding.

    Example:
        >>> convolution_taps(3, kernel=3, stride=2, padding=2).tolist()
        [[[2, 0], [-1, -1], [-1, -1]], [[0, 0], [1, 1], [2, 2]], [[0, 2], [-1, -1], [-1, -1]]]
    """
    _check(size, kernel, stride, padding, dilation)
    out = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    _check_outputs(out, size)
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
    _check(size, kernel, stride, padding, dilation)
    out = (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1
    _check_outputs(out, size)
    reads: list[list[tuple[int, int]]] = []
    for o in range(out):
        behind = [(k, o + padding - k * dilation) for k in range(kernel)]
        reads.append([(k, at // stride) for k, at in behind if at % stride == 0])
    return _table(reads, size)


@lru_cache(maxsize=256)
def doubled_taps(
    size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
) -> tuple[Tensor, tuple[tuple[int, ...], ...]]:
    """Return the table of a convolution of an axis whose every pixel is repeated, and its sums.

    Taps that read the same pixel are one tap, whose weights are the sum of theirs. Of a kernel of
    three, each output position has two taps left.

    Args:
        size: Pixels before they are repeated.
        kernel: Taps of the convolution of 2 * size pixels.
        stride: Of that convolution, and so are the others.
        padding: Zeros on both sides.
        dilation: Distance of its taps.

    Returns:
        The table, and for every tap in it the taps of the kernel that it sums.

    Example:
        >>> table, sums = doubled_taps(2, kernel=3, padding=1)
        >>> sums
        ((1, 2), (0, 1), (2,), (0,))
        >>> table.tolist()[1]  # reads the first pixel by two taps, and the second by one
        [[1, 0], [2, 1]]
    """
    single = convolution_taps(2 * size, kernel, stride, padding, dilation)
    sums: dict[tuple[int, ...], int] = {}
    reads: list[list[tuple[int, int]]] = []
    for row in single.tolist():
        taps: dict[int, tuple[int, ...]] = {}
        for tap, at in row:
            if tap >= 0:
                taps[at // 2] = (*taps.get(at // 2, ()), tap)
        reads.append([(sums.setdefault(k, len(sums)), at) for at, k in taps.items()])
    return _table(reads, size), tuple(sums)


_MOST = 1 << 16  # along one axis


def _check(size: int, kernel: int, stride: int, padding: int, dilation: int) -> None:
    """Refuse what is no geometry of a convolution.

    Raises:
        UserError: A number is not whole, too small or too large.
    """
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
