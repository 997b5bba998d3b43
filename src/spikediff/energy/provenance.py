"""Track what tensors carry (real values or spikes) and what produced them."""

from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from spikediff.energy.changes import Changes
from spikediff.energy.elementwise import (
    ADDITIONS,
    LOOKUPS,
    MIXTURES,
    REAL_VALUED,
    SAME_SET_OF_VALUES,
)

MOST_LEVELS = 16  # most spikes of an element in a step; integer and converted neurons emit fewer
_FINER_UNITS = (1, 2, 3, 4)  # the smallest value may itself be several units: {0.5, 0.75}
_SAMPLE = 4096  # elements that suffice to recognise most real-valued tensors
_ROUNDING = 1e-4  # tolerance, as a share of one level, for the float32 rounding of scaled spikes


@dataclass(frozen=True)
class Signal:
    """The content of a synapse's input."""

    # "real"; or spikes: "silent" (all zero), "binary" {0, a}, "ternary" {-a, 0, a} or "integer"
    # (multiples of a up to 16, of either sign).
    kind: str
    # Spikes per element (a value of 3a is three spikes), of the tensor's shape; None for real
    # values.
    events: Tensor | None
    # D, the most spikes of an element: the limit of the neurons that emitted them, if known, else
    # the largest count that occurs; 0 for real values.
    levels: int = 0
    signed: bool = False  # whether spikes of both signs occur

    @property
    def bits(self) -> int:
        """Bits per element; 0 for real values, whose width the cost table defines.

        Example:
            >>> Signal("integer", torch.tensor([4.0]), levels=4).bits
            3
        """
        return self.levels.bit_length() + self.signed if self.spiking else 0

    @property
    def spiking(self) -> bool:
        """Whether accumulates suffice, because the scale of the spikes folds into the weights."""
        return self.events is not None


def read_signal(x: Tensor) -> Signal:
    """Recognise spikes in a synapse's input, of any shape, by its values.

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
    """Return x as multiples of one unit if all values are small multiples of it; else None."""
    smallest = x[x != 0].abs().min()
    for finer in _FINER_UNITS:
        levels = x * (finer / smallest)
        whole = levels.round()
        if whole.abs().max() > MOST_LEVELS:
            return None
        if (levels - whole).abs().max() <= _ROUNDING:
            return whole
    return None


def copies(x: Tensor, images: int, spiking_steps: int | None = None) -> int:
    """Return the number of repetitions of all images in x [N * images, ...]: [A, B, A, B] -> 2.

    Direct coding feeds a layer T identical copies of an image, which cost as much as one. If T is
    known, the function looks only for T copies.

    Example:
        >>> copies(torch.tensor([1.0, 2.0, 1.0, 2.0]), images=2)
        2
    """
    number, rest = divmod(len(x), images)
    if rest or number < 2 or spiking_steps not in (None, number):
        return 1
    # Two rows rule out most inputs.
    return number if torch.equal(x[0], x[images]) and torch.equal(x[images:], x[:-images]) else 1


_EXACT = 2**24  # float32 adds this many ones without rounding


class _Facts(NamedTuple):
    """What is known about a tensor from the operation that produced it."""

    real: bool = False  # it holds real values, even if all are zero
    current: bool = False  # it is the unmodified result of synapses
    levels: int = 0  # D of the neurons whose spikes it holds, 0..D each; 0 if it holds no spikes


_UNKNOWN = _Facts()
_REAL = _Facts(real=True)
_CURRENT = _Facts(real=True, current=True)


class Provenance:
    """Tracks tensors through views and copies, from one operation to the next.

    Attributes:
        spiking_steps: T, once it is known.
        images: Rows of the last call, or images of the last scheduler step; None before the first.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        spiking_steps: int | None = None,
        changes: Changes | None = None,
    ) -> None:
        self.spiking_steps = spiking_steps
        self.images: int | None = None
        self._changes = changes
        self._parameters = {id(parameter): parameter for parameter in parameters}
        self._weights: dict[int, Tensor] = {}  # parameters, and what the call computed from them
        self._facts: MutableMapping[Tensor, _Facts] = WeakIdKeyDictionary()
        self.begin_call(0, None, True)

    def begin_call(self, model: int, images: int | None, afresh: bool) -> None:
        """Begin a call: forget tensors computed in the last one; `afresh` starts a generation."""
        self.images = images
        self._weights = dict(self._parameters)
        if self._changes is not None:
            self._changes.begin_call(model, afresh)

    def is_weight(self, tensor: Any) -> bool:
        """Return whether a tensor is a parameter or was computed from parameters alone."""
        return id(tensor) in self._weights

    def is_current(self, tensor: Tensor) -> bool:
        """Return whether a tensor is the unmodified result of a synapse."""
        return self._of(tensor).current

    def read(self, tensor: Tensor) -> Signal:
        """Return what a tensor carries, judged by its origin if known, else by its values."""
        known = self._of(tensor)
        if known.real:
            return Signal("real", None)
        if known.levels:
            return Signal("binary" if known.levels == 1 else "integer", tensor, known.levels)
        return read_signal(tensor)

    def changes_of(self, tensor: Tensor, signal: Signal) -> tuple[Tensor | None, bool]:
        """Return the change in a synapse's input; see `Changes.of`.

        Only spikes of known neurons are tracked, because spikes recognised by value have no fixed
        unit.
        """
        if self._changes is None or (signal.spiking and not self._of(tensor).levels):
            return None, False
        return self._changes.of(tensor, signal.spiking)

    def passes(self, rows: int) -> int:
        """Return D where a window of one step runs as D rows of spikes, else 1."""
        images = self.images or rows
        return max(1, rows // images) if self.spiking_steps == 1 and not rows % images else 1

    def copies(self, tensor: Tensor) -> int:
        """Return `copies` of a tensor at the known T; 1 before the first call."""
        return 1 if self.images is None else copies(tensor, self.images, self.spiking_steps)

    def add_weights(self, tensors: Iterable[Tensor]) -> None:
        """Record tensors computed from weights alone."""
        self._weights |= {id(tensor): tensor for tensor in tensors}

    def add_real(self, tensor: Tensor) -> None:
        """Record a tensor of real values."""
        self._facts[tensor] = _REAL

    def add_current(self, tensor: Tensor) -> None:
        """Record the result of a synapse."""
        self._facts[tensor] = _CURRENT

    def add_spikes(self, spikes: Tensor, levels: int) -> int:
        """Record the output of a layer of neurons of D levels; return the number of its spikes.

        The output holds counts 0..D, or spikes of -1, 0 and 1.
        """
        if spikes.numel() and spikes.min() >= 0:
            self._facts[spikes] = _Facts(levels=levels)
        else:
            spikes = spikes.abs()
        exact = torch.float32 if spikes.numel() * levels < _EXACT else torch.float64
        return round(spikes.sum(dtype=exact).item())

    def follow_copy(self, source: Any, out: Any) -> None:
        """Copy everything known about a tensor to a view or copy of it."""
        if id(source) in self._weights:
            self.add_weights(tensors_of([out]))
        elif (known := self._of(source)) != _UNKNOWN:
            self._facts[first(out)] = known

    def follow(self, name: str, sources: Sequence[Tensor], out: Any) -> None:
        """Derive what is known about an operation's result from its sources (at least one)."""
        facts = [self._of(source) for source in sources]
        if name in ADDITIONS and len(facts) > 1 and all(known.current for known in facts):
            self._facts[first(out)] = _CURRENT  # two synapses onto the same neurons
        elif name in SAME_SET_OF_VALUES and all(known.levels for known in facts):
            self._facts[first(out)] = _Facts(levels=max(known.levels for known in facts))
        elif (
            name in REAL_VALUED
            or (name in LOOKUPS and self.is_weight(sources[0]))
            or (name in MIXTURES and any(known.real for known in facts))
        ):
            self._facts[first(out)] = _REAL
        elif out is sources[0]:  # changed in place
            self._facts.pop(out, None)

    def _of(self, tensor: Any) -> _Facts:
        return self._facts.get(tensor, _UNKNOWN) if isinstance(tensor, Tensor) else _UNKNOWN


def tensors_of(values: Sequence[Any]) -> list[Tensor]:
    """Return the tensors among an operation's arguments, including those in lists (`cat`)."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += tensors_of(value)
    return found


def first(out: Any) -> Tensor:
    """Return an operation's only or first result."""
    tensor: Tensor = out[0] if isinstance(out, list | tuple) else out
    return tensor
