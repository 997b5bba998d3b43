"""Synapses of a merged network: one linear map, without bias, from a source to its targets."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from spikediff.layers.time import fold_time, unfold_time
from spikediff.models.merged.kernels import Region, Strip


class UniformSynapse(nn.Module):
    """The same kernel for all targets: an ordinary convolution.

    Args:
        kernel: Weights [O, I / groups, k, k].
        stride: Stride.
        padding: Zeros round the source.
        groups: Groups of channels; as many as channels for a one-to-one synapse.

    Shape: [T, B, I, H, W] -> [T, B, O, H', W'].
    """

    def __init__(self, kernel: Tensor, stride: int = 1, padding: int = 0, groups: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(kernel, requires_grad=False)
        self.stride = stride
        self.padding = padding
        self.groups = groups
        self.dilation = 2 if kernel.shape[-1] == 1 else 1  # see layers/pointwise.py

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
    """A kernel per region of targets: the border, and even and odd places, have their own.

    Args:
        kernels: One kernel [O, I, h, w] per region.
        regions: Strips of the rows and of the columns of every region; together they are the image.

    Shape: [T, B, I, H, W] -> [T, B, O, H', W'].
    """

    def __init__(self, kernels: Sequence[Tensor], regions: Sequence[Region]) -> None:
        super().__init__()
        frozen = (nn.Parameter(kernel, requires_grad=False) for kernel in kernels)
        self.weights = nn.ParameterList(frozen)
        self.regions = [
            (rows.targets, columns.targets, _reach(rows), _reach(columns))
            for rows, columns in regions
        ]
        self.size = 1 + max(rows.targets[-1] for rows, _columns in regions)

    def forward(self, x: Tensor) -> Tensor:
        """Return the current."""
        source = fold_time(x)  # [T*B, I, H, W]
        channels = self.weights[0].shape[0]
        current = source.new_empty(len(source), channels, self.size, self.size)  # [T*B, O, H', W']
        for kernel, (rows, columns, down, across) in zip(self.weights, self.regions, strict=True):
            current[..., _places(rows), _places(columns)] = _reached(source, kernel, down, across)
        return unfold_time(current, len(x))

    def extra_repr(self) -> str:
        """Return the sizes, for `print(model)`."""
        out_channels, in_channels = self.weights[0].shape[:2]
        return f"[{out_channels}, {in_channels}], {len(self.regions)} regions of {self.size}"


def _reach(strip: Strip) -> range:
    """Return the source positions that any target of a strip meets, those in the padding too."""
    return range(strip.window.start, strip.window.stop + len(strip.targets) - 1)


def _places(targets: range) -> slice:
    return slice(targets.start, targets.stop, targets.step)


def _reached(source: Tensor, kernel: Tensor, rows: range, columns: range) -> Tensor:
    """Convolve the rows and columns of a source [N, I, H, W], zeros where they lie outside."""
    (top, bottom), (left, right) = (
        (max(0, -reach.start), max(0, reach.stop - size))
        for reach, size in zip((rows, columns), source.shape[2:], strict=True)
    )
    met = source[..., max(0, rows.start) : rows.stop, max(0, columns.start) : columns.stop]
    vertical, horizontal = min(top, bottom), min(left, right)  # what the convolution pads itself
    rest = (left - horizontal, right - horizontal, top - vertical, bottom - vertical)
    met = pad(met, rest) if any(rest) else met
    dilation = [2 if taps == 1 else 1 for taps in kernel.shape[2:]]  # see layers/pointwise.py
    return conv2d(met, kernel, padding=(vertical, horizontal), dilation=dilation)
