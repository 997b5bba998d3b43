"""What a tensor carries: real values, or spikes that an accumulator can serve."""

from dataclasses import dataclass

import torch
from torch import Tensor

MOST_LEVELS = 16  # spikes of one element and step: integer neurons and converted nets stay below
_FINER_UNITS = (1, 2, 3, 4)  # the smallest value may itself be several units: {0.5, 0.75}
_SAMPLE = 4096  # elements that tell most real-valued tensors at once
_ROUNDING = 1e-4  # of one level; scaled spikes carry float32 rounding


@dataclass(frozen=True)
class Signal:
    """The content of a tensor, as a synapse sees it.

    Attributes:
        kind: "real"; or spikes: "silent" (all zero), "binary" {0, a}, "ternary" {-a, 0, a} or
            "integer" (multiples of a up to 16, of either sign).
        events: Spikes per element (a value of 3a is three spikes), of the tensor's shape; None
            for real values.
        levels: D, the most spikes of an element: of the neurons that emitted them where those are
            known, else the most that occur; 0 for real values.
        signed: Whether spikes of either sign occur.
    """

    kind: str
    events: Tensor | None
    levels: int = 0
    signed: bool = False

    @property
    def bits(self) -> int:
        """Bits that hold one element; 0 for real values, whose width a cost table says.

        Example:
            >>> Signal("integer", torch.tensor([4.0]), levels=4).bits
            3
        """
        return self.levels.bit_length() + self.signed if self.spiking else 0

    @property
    def spiking(self) -> bool:
        """Whether an accumulator suffices: the scale of the spikes folds into the weights."""
        return self.events is not None


def read_signal(x: Tensor) -> Signal:
    """Tell spikes from real values, by the values themselves.

    Args:
        x: Input of a synapse, any shape.

    Returns:
        Its signal. An all-zero tensor is "silent": it causes no event.

    Example:
        >>> read_signal(torch.tensor([0.0, 0.5, 0.5])).kind
        'binary'
        >>> read_signal(torch.tensor([0.0, -1.0, 2.0])).events.tolist()
        [0.0, 1.0, 2.0]
        >>> read_signal(torch.tensor([0.0, 0.5, 0.3141])).kind
        'real'
    """
    if x.numel() == 0:
        return Signal("silent", x)
    low, high = (value.item() for value in x.aminmax())
    if low == high == 0:
        return Signal("silent", x)
    if low >= 0 and torch.equal(x.sign() if high == 1 else x.sign() * high, x):
        return Signal("binary", x if high == 1 else x.sign(), levels=1)
    sample = x[0].reshape(-1)[:_SAMPLE] if x.dim() > 1 else x[:_SAMPLE]
    if sample.any() and _levels(sample) is None:
        return Signal("real", None)
    levels = _levels(x)
    if levels is None:
        return Signal("real", None)
    events = levels.abs()
    most = int(events.max())
    return Signal("ternary" if most == 1 else "integer", events, most, signed=low < 0 < high)


def _levels(x: Tensor) -> Tensor | None:
    """Return x in multiples of one unit, if it is such a lattice of few levels; else None."""
    smallest = x[x != 0].abs().min()
    for finer in _FINER_UNITS:
        levels = x * (finer / smallest)
        whole = levels.round()
        if whole.abs().max() > MOST_LEVELS:
            return None
        if (levels - whole).abs().max() <= _ROUNDING:
            return whole
    return None


def copies(x: Tensor, spiking_steps: int | None = None) -> int:
    """Return how many times the leading axis repeats itself: [A, B, A, B] -> 2.

    Direct coding shows a layer T identical copies of an image; what they cost is the cost of one.

    Args:
        x: Input of a synapse [N, ...].
        spiking_steps: T where it is known: only T copies are looked for.

    Example:
        >>> copies(torch.tensor([1.0, 2.0, 1.0, 2.0]))
        2
    """
    rows = len(x)
    if spiking_steps is not None:
        periods = [rows // spiking_steps] if rows % spiking_steps == 0 else []
    else:
        sums = x.reshape(rows, -1).sum(1)
        periods = [p for p in (sums == sums[0]).nonzero().flatten().tolist() if p and rows % p == 0]
    return next((rows // p for p in periods if p < rows and _repeats(x, p)), 1)


def _repeats(x: Tensor, period: int) -> bool:
    """Whether the leading axis has this period; the second row of most inputs says no."""
    return torch.equal(x[0], x[period]) and torch.equal(x[period:], x[:-period])
