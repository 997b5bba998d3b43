"""Where a tensor comes from, as far as counting needs it: from weights, synapses or neurons."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from spikediff.energy.elementwise import (
    ADDITIONS,
    LOOKUPS,
    MIXTURES,
    REAL_VALUED,
    SAME_SET_OF_VALUES,
)
from spikediff.energy.signals import Signal, copies, read_signal

_EXACT = 2**24  # up to so many ones float32 adds without rounding

# What may be known of a tensor.
_REAL = 1  # real values by their making, even where all are zero
_CURRENT = 2  # the result of synapses, which nothing has changed since
_SPIKES = 4  # binary spikes of neurons


class Provenance:
    """Follows tensors through views and copies, from one operation to the next.

    Args:
        parameters: Parameters of the observed models.
        spiking_steps: T, where it is known from the start.

    Attributes:
        spiking_steps: T, once it is known.
    """

    def __init__(self, parameters: Iterable[Tensor], spiking_steps: int | None = None) -> None:
        self.spiking_steps = spiking_steps
        self._parameters = {id(parameter): parameter for parameter in parameters}
        self._weights: dict[int, Tensor] = {}  # those, and what the current call made of them
        self._facts: Any = WeakIdKeyDictionary()
        self.begin_call()

    def begin_call(self) -> None:
        """Forget what an earlier call of the model made of its parameters."""
        self._weights = dict(self._parameters)

    def is_weight(self, tensor: Any) -> bool:
        """Whether a tensor is a parameter, or was computed from parameters alone."""
        return id(tensor) in self._weights

    def is_current(self, tensor: Tensor) -> bool:
        """Whether a tensor holds what a synapse put out, and nothing since has changed it."""
        return bool(self._facts.get(tensor, 0) & _CURRENT)

    def read(self, tensor: Tensor) -> Signal:
        """Return what a tensor carries: by its making where that is known, else by its values."""
        known = self._facts.get(tensor, 0)
        if known & _REAL:
            return Signal("real", None)
        return Signal("binary", tensor) if known & _SPIKES else read_signal(tensor)

    def copies(self, tensor: Tensor) -> int:
        """Return how many times the leading axis of a tensor repeats itself."""
        return copies(tensor, self.spiking_steps)

    def add_weights(self, tensors: Iterable[Tensor]) -> None:
        """Note tensors that were computed from weights alone."""
        self._weights |= {id(tensor): tensor for tensor in tensors}

    def add_current(self, tensor: Tensor) -> None:
        """Note the result of a synapse."""
        self._facts[tensor] = _REAL | _CURRENT

    def add_spikes(self, spikes: Tensor) -> int:
        """Note the output of a layer of neurons, of 0, 1 and perhaps -1; return how many fired."""
        if spikes.numel() and spikes.min() >= 0:
            self._facts[spikes] = _SPIKES
        else:
            spikes = spikes.abs()
        exact = torch.float32 if spikes.numel() < _EXACT else torch.float64
        return round(spikes.sum(dtype=exact).item())

    def follow_copy(self, source: Any, out: Any) -> None:
        """Carry everything that is known of a tensor to a view or copy of it."""
        if id(source) in self._weights:
            self.add_weights(tensors_of([out]))
        elif known := self._facts.get(source, 0):
            self._facts[first(out)] = known

    def follow(self, name: str, sources: Sequence[Tensor], out: Any) -> None:
        """Carry what is known through an operation that computes or chooses.

        Args:
            name: Name of the operation, without namespace.
            sources: Its tensors, at least one.
            out: Its result.
        """
        facts = [self._facts.get(source, 0) for source in sources]
        if name in ADDITIONS and len(facts) > 1 and all(known & _CURRENT for known in facts):
            self._facts[first(out)] = _REAL | _CURRENT  # two synapses onto the same neurons
        elif name in SAME_SET_OF_VALUES and all(known & _SPIKES for known in facts):
            self._facts[first(out)] = _SPIKES
        elif (
            name in REAL_VALUED
            or (name in LOOKUPS and self.is_weight(sources[0]))
            or (name in MIXTURES and any(known & _REAL for known in facts))
        ):
            self._facts[first(out)] = _REAL
        elif out is sources[0]:  # in place: what was known of it is no longer so
            self._facts.pop(out, None)


def tensors_of(values: Sequence[Any]) -> list[Tensor]:
    """Return the tensors among an operation's arguments, also those in a list (as of `cat`)."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += tensors_of(value)
    return found


def first(out: Any) -> Tensor:
    """Return an operation's (first) result."""
    tensor: Tensor = out[0] if isinstance(out, list | tuple) else out
    return tensor
