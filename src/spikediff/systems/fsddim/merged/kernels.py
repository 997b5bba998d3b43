r"""Two consecutive convolutions as one synapse.

A convolution c [O, M] after a convolution p [M, I] is one convolution, with the full convolution
of the two kernels, $K[o, i, u] = \sum_{m, a} c[o, m, a]\,p[m, i, u - a]$, with two exceptions:

- At the border. The image between the two is padded with zeros, not with the output of p there.
  So if taps of c fall outside that image, the target's kernel omits them.
- If every pixel of p's input is doubled. Several taps of K then fall on the same pixel
  of the small image; which ones depends on whether the target is even or odd. Their weights add.

The axes are independent, so each is cut into strips of targets with the same taps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, pad

from spikediff.layers.time import fold_time, unfold_time


@dataclass(frozen=True)
class Strip:
    """Targets along one axis with the same taps.

    Attributes:
        targets: Their positions, spaced by the factor of the upsampling.
        taps: Taps of c that fall on the image between the two convolutions.
        window: Source positions that the first target meets; the next one meets those plus 1.
        folding: Which tap of K meets which position of the window: zeros and ones
            [taps of K, window], float64.
    """

    targets: range
    taps: slice
    window: range
    folding: Tensor

    @property
    def reach(self) -> range:
        """Source positions that any target meets, those in the padding too."""
        return range(self.window.start, self.window.stop + len(self.targets) - 1)


def cut(size: int, c_taps: int, p_taps: int, factor: int = 1) -> list[Strip]:
    """Cut an axis of targets into strips.

    There are as many targets as positions between the two convolutions. Kernels c and p have odd
    sizes; every source position is repeated `factor` times before p.

    Example:
        >>> [list(strip.targets) for strip in cut(5, 3, 3)]
        [[0], [1, 2, 3], [4]]
        >>> [list(strip.targets) for strip in cut(8, 3, 3, factor=2)]
        [[0], [1, 3, 5], [2, 4, 6], [7]]
    """
    reach, alike = c_taps // 2, dict[tuple[int, int, int], list[int]]()
    for target in range(size):
        first, stop = max(0, reach - target), min(c_taps, size - target + reach)
        alike.setdefault((first, stop, target % factor), []).append(target)
    strips = []
    for (first, stop, _phase), targets in alike.items():
        leftmost = targets[0] + first - reach - p_taps // 2  # in the repeated image
        positions = range(leftmost, leftmost + stop - first + p_taps - 1)
        sources = [position // factor for position in positions]
        # A source position in the padding of every target needs no weight.
        window = range(max(sources[0], 1 - len(targets)), min(sources[-1], size // factor - 1) + 1)
        folding = torch.tensor([[source == met for met in window] for source in sources]).double()
        places = range(targets[0], targets[-1] + 1, factor)
        strips.append(Strip(places, slice(first, stop), window, folding))
    return strips


Region = tuple[Strip, Strip]  # of rows, of columns


def regions(size: int, c_taps: int, p_taps: int, factor: int) -> list[Region]:
    """Return all pairs of strips of a square image; arguments as of `cut`."""
    strips = cut(size, c_taps, p_taps, factor)
    return [(rows, columns) for rows in strips for columns in strips]


def regional_kernels(c: Tensor, p: Tensor, regions: Sequence[Region]) -> list[Tensor]:
    """Return a kernel [O, I, rows, columns] per region, for p that keeps or doubles the image size.

    c [O, M, a, a] is the kernel of the second convolution, p [M, I, b, b] of the first; float64.
    """
    composites: dict[tuple[int, ...], Tensor] = {}  # even and odd targets fold the same one
    kernels = []
    for rows, columns in regions:
        taps = (rows.taps.start, rows.taps.stop, columns.taps.start, columns.taps.stop)
        if taps not in composites:
            composites[taps] = composite(c[..., rows.taps, columns.taps], p)  # [O, I, y, x]
        folded = torch.einsum("oiyx,yu,xv->oiuv", composites[taps], rows.folding, columns.folding)
        kernels.append(folded)
    return kernels


def behind_average(c: Tensor, p: Tensor) -> Tensor:
    """Return the kernel of c after an average of four pixels and a 1x1 convolution p, float64.

    The latter two are a 2x2 convolution of stride 2, and a zero in the padding of the small image
    corresponds to four zeros in the large one. So one kernel of twice the size is exact: [O, M, a,
    a] and [M, I, 1, 1] -> [O, I, 2a, 2a], for stride 2 and padding `2 (a // 2)` on the large image.
    """
    return conv_transpose2d(c, (p / 4).expand(-1, -1, 2, 2), stride=2)


def composite(c: Tensor, p: Tensor) -> Tensor:
    """Return the full convolution of two kernels: [O, M, a, a], [M, I, b, b] -> [O, I, a+b-1, ..].

    If either is 1x1 the result is exact at the border too: a 1x1 c has no padding, and after a
    1x1 p without bias the zeros of the padding are those of the source.
    """
    return conv_transpose2d(c, p)


class UniformSynapse(nn.Module):
    """The same kernel for all targets: an ordinary convolution.

    With as many groups as channels the synapse is one-to-one.

    Shape: [T, B, I, H, W] -> [T, B, O, H', W'].
    """

    def __init__(self, kernel: Tensor, stride: int = 1, padding: int = 0, groups: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(kernel, requires_grad=False)
        self.stride, self.padding, self.groups = stride, padding, groups
        self.dilation = 2 if kernel.shape[-1] == 1 else 1  # see `pointwise_conv`

    def forward(self, x: Tensor) -> Tensor:
        """Return the current."""
        current = conv2d(
            fold_time(x),
            self.weight,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )
        return unfold_time(current, len(x))

    def extra_repr(self) -> str:
        """Return the sizes, for `print(model)`."""
        return f"{list(self.weight.shape)}, stride={self.stride}, groups={self.groups}"


class RegionalSynapse(nn.Module):
    """A kernel [O, I, h, w] per region of targets: the border, and even and odd positions.

    Together the regions cover the image.

    Shape: [T, B, I, H, W] -> [T, B, O, H', W'].
    """

    def __init__(self, kernels: Sequence[Tensor], regions: Sequence[Region]) -> None:
        super().__init__()
        frozen = (nn.Parameter(kernel, requires_grad=False) for kernel in kernels)
        self.weights = nn.ParameterList(frozen)
        self.regions = [
            (_slice(rows.targets), _slice(columns.targets), rows.reach, columns.reach)
            for rows, columns in regions
        ]
        self.size = 1 + max(rows.targets[-1] for rows, _columns in regions)

    def forward(self, x: Tensor) -> Tensor:
        """Return the current."""
        source = fold_time(x)  # [T*B, I, H, W]
        channels = self.weights[0].shape[0]
        current = source.new_empty(len(source), channels, self.size, self.size)  # [T*B, O, H', W']
        for kernel, (rows, columns, down, across) in zip(self.weights, self.regions, strict=True):
            current[..., rows, columns] = _convolve_part(source, kernel, down, across)
        return unfold_time(current, len(x))

    def extra_repr(self) -> str:
        """Return the sizes, for `print(model)`."""
        out_channels, in_channels = self.weights[0].shape[:2]
        return f"[{out_channels}, {in_channels}], {len(self.regions)} regions of {self.size}"


def _slice(places: range) -> slice:
    return slice(places.start, places.stop, places.step)


def _convolve_part(source: Tensor, kernel: Tensor, rows: range, columns: range) -> Tensor:
    """Convolve the rows and columns of a source [N, I, H, W], which is zero outside."""
    (top, bottom), (left, right) = (
        (max(0, -reach.start), max(0, reach.stop - size))
        for reach, size in zip((rows, columns), source.shape[2:], strict=True)
    )
    met = source[..., max(0, rows.start) : rows.stop, max(0, columns.start) : columns.stop]
    vertical, horizontal = min(top, bottom), min(left, right)  # what the convolution pads itself
    rest = (left - horizontal, right - horizontal, top - vertical, bottom - vertical)
    met = pad(met, rest) if any(rest) else met
    dilation = [2 if taps == 1 else 1 for taps in kernel.shape[2:]]  # see `pointwise_conv`
    return conv2d(met, kernel, padding=(vertical, horizontal), dilation=dilation)
