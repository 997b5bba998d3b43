r"""Kernels of two linear maps in a row: what one synapse must weigh to do both at once.

A convolution c [O, M] behind a convolution p [M, I] is one convolution, whose kernel is the full
convolution of theirs, $K[o, i, u] = \sum_{m, a} c[o, m, a]\,p[m, i, u - a]$. Two things stand in
the way of that being all:

- The image between the two is padded with zeros, not with what p would find there. So targets at
  the border, where taps of c fall off that image, have kernels without those taps.
- Where p sees an image of which every pixel is doubled, several taps of K meet the same pixel of
  the small image, and which do depends on the target being even or odd. Their weights add up.

The axes are independent in this, so each is cut into strips of targets that have the same taps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv_transpose2d


@dataclass(frozen=True)
class Strip:
    """Targets along one axis that meet the source in the same way.

    Attributes:
        targets: Their positions, spaced by the factor of the upsampling.
        taps: The consumer's taps that fall on the image between the two convolutions.
        window: Source positions that the first target meets; the next one meets those plus 1.
        folding: Which tap of the composite kernel meets which position of the window: zeros and
            ones [composite taps, window], float64.
    """

    targets: range
    taps: slice
    window: range
    folding: Tensor


def cut(size: int, consumer_taps: int, prefix_taps: int, factor: int = 1) -> list[Strip]:
    """Cut an axis into strips.

    Args:
        size: Targets, as many as the image between the two convolutions has positions.
        consumer_taps: Taps of the second kernel, odd.
        prefix_taps: Taps of the first kernel, odd.
        factor: How many times every source position is repeated before the first convolution.

    Example:
        >>> [list(strip.targets) for strip in cut(5, 3, 3)]
        [[0], [1, 2, 3], [4]]
        >>> [list(strip.targets) for strip in cut(8, 3, 3, factor=2)]
        [[0], [1, 3, 5], [2, 4, 6], [7]]
    """
    reach, alike = consumer_taps // 2, dict[tuple[int, int, int], list[int]]()
    for target in range(size):
        first, stop = max(0, reach - target), min(consumer_taps, size - target + reach)
        alike.setdefault((first, stop, target % factor), []).append(target)
    return [
        _strip(targets, slice(first, stop), reach, prefix_taps, size, factor)
        for (first, stop, _phase), targets in alike.items()
    ]


def _strip(
    targets: list[int], taps: slice, reach: int, prefix_taps: int, size: int, factor: int
) -> Strip:
    count = len(targets)
    leftmost = targets[0] + taps.start - reach - prefix_taps // 2  # in the repeated image
    positions = range(leftmost, leftmost + taps.stop - taps.start + prefix_taps - 1)
    sources = [position // factor for position in positions]
    # A source position that lies in the padding for every target needs no weight.
    window = range(max(sources[0], 1 - count), min(sources[-1], size // factor - 1) + 1)
    folding = torch.tensor([[source == met for met in window] for source in sources])
    return Strip(range(targets[0], targets[-1] + 1, factor), taps, window, folding.double())


Region = tuple[Strip, Strip]  # of rows, of columns


def regions(size: int, consumer_taps: int, prefix_taps: int, factor: int) -> list[Region]:
    """Return all pairs of strips of a square image; arguments as of `cut`."""
    strips = cut(size, consumer_taps, prefix_taps, factor)
    return [(rows, columns) for rows in strips for columns in strips]


def regional_kernels(consumer: Tensor, prefix: Tensor, regions: Sequence[Region]) -> list[Tensor]:
    """Return a kernel per region, for a prefix that keeps or doubles the image size.

    Args:
        consumer: Kernel of the second convolution [O, M, a, a], float64.
        prefix: Kernel of the first [M, I, b, b], float64.
        regions: Those of the image.

    Returns:
        Kernels [O, I, window of rows, window of columns].
    """
    fine: dict[tuple[int, ...], Tensor] = {}  # even and odd targets fold the same composite kernel
    kernels = []
    for rows, columns in regions:
        taps = (rows.taps.start, rows.taps.stop, columns.taps.start, columns.taps.stop)
        if taps not in fine:
            fine[taps] = composite(consumer[..., rows.taps, columns.taps], prefix)  # [O, I, y, x]
        folded = torch.einsum("oiyx,yu,xv->oiuv", fine[taps], rows.folding, columns.folding)
        kernels.append(folded)
    return kernels


def behind_average(consumer: Tensor, prefix: Tensor) -> Tensor:
    r"""Return the kernel of a convolution behind `average of four pixels, 1x1 convolution`.

    The two are a 2x2 convolution of stride 2, and a zero in the padding of the small image is four
    zeros in that of the large one; so one kernel of twice the size and stride 2 is exact.

    Args:
        consumer: Kernel [O, M, a, a] on the halved image, float64.
        prefix: Kernel of the 1x1 convolution [M, I, 1, 1], float64.

    Returns:
        The kernel [O, I, 2a, 2a] on the large image, for stride 2 and padding `2 (a // 2)`.

    Example:
        >>> behind_average(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1)).flatten().tolist()
        [0.25, 0.25, 0.25, 0.25]
    """
    taps = (prefix / 4).expand(-1, -1, 2, 2)
    return conv_transpose2d(consumer, taps, stride=2)


def composite(consumer: Tensor, prefix: Tensor) -> Tensor:
    """Return the full convolution of two kernels: [O, M, a, a], [M, I, b, b] -> [O, I, a+b-1, ..].

    Where either is 1x1 it is exact at the border too: a 1x1 consumer meets no padding, and behind a
    1x1 prefix without bias the padding's zeros are those of the source.
    """
    return conv_transpose2d(consumer, prefix)


def scaled(kernel: Tensor, gain: Tensor) -> Tensor:
    """Return a kernel [O, ...] with every output channel times its gain [O]."""
    return kernel * gain.view(-1, *[1] * (kernel.dim() - 1))
