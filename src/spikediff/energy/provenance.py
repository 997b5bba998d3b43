"""Where a tensor comes from, as far as counting needs it: from weights, synapses or neurons."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from spikediff.energy.elementwise import LOOKUPS, MIXTURES, REAL_VALUED, SAME_VALUES
from spikediff.energy.signals import Signal, read_signal

_SAME_SET_OF_VALUES = SAME_VALUES | {"cat", "stack", "upsample_nearest2d", "upsample_nearest1d"}
_EXACT = 2**24  # up to so many ones float32 adds without rounding


class Provenance:
    """Follows tensors through views and copies, from one operation to the next.

    Args:
        parameters: Parameters of the observed models.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self._parameters = {id(parameter): parameter for parameter in parameters}
        self._weights: dict[int, Tensor] = {}  # those, and what the current call made of them
        self._currents: Any = WeakIdKeyDictionary()  # results of synapses
        self._real: Any = WeakIdKeyDictionary()  # real values by their making, even if all zero
        self._spikes: Any = WeakIdKeyDictionary()  # binary spikes of neurons
        self.begin_call()

    def begin_call(self) -> None:
        """Forget what an earlier call of the model made of its parameters."""
        self._weights = dict(self._parameters)

    def is_weight(self, tensor: Any) -> bool:
        """Whether a tensor is a parameter, or was computed from parameters alone."""
        return id(tensor) in self._weights

    def is_current(self, tensor: Tensor) -> bool:
        """Whether a tensor holds what a synapse put out, and nothing since has changed it."""
        return tensor in self._currents

    def read(self, tensor: Tensor) -> Signal:
        """Return what a tensor carries: by its making where that is known, else by its values."""
        if tensor in self._real:
            return Signal("real", None)
        return Signal("binary", tensor) if tensor in self._spikes else read_signal(tensor)

    def add_weights(self, tensors: Iterable[Tensor]) -> None:
        """Note tensors that were computed from weights alone."""
        self._weights |= {id(tensor): tensor for tensor in tensors}

    def add_current(self, tensor: Tensor) -> None:
        """Note the result of a synapse."""
        self._currents[tensor] = True
        self._real[tensor] = True

    def add_spikes(self, spikes: Tensor) -> int:
        """Note the output of a layer of neurons, of 0, 1 and perhaps -1; return how many fired."""
        if spikes.numel() and spikes.min() >= 0:
            self._spikes[spikes] = True
        else:
            spikes = spikes.abs()
        exact = torch.float32 if spikes.numel() < _EXACT else torch.float64
        return round(spikes.sum(dtype=exact).item())

    def follow(
        self, name: str, arguments: Sequence[Any], sources: Sequence[Tensor], out: Any
    ) -> None:
        """Carry what is known through one operation.

        Args:
            name: Name of the operation, without namespace.
            arguments: Its arguments.
            sources: The tensors among them.
            out: Its result.
        """
        if not sources:
            return
        if arguments and out is arguments[0]:  # in place: what was known of it is no longer so
            self._currents.pop(out, None)
            self._spikes.pop(out, None)
        if name in SAME_VALUES and self.is_weight(sources[0]):
            self.add_weights(tensors_of([out]))
            return
        if name in SAME_VALUES and sources[0] in self._currents:
            self._currents[first(out)] = True
        if name in _SAME_SET_OF_VALUES and all(source in self._spikes for source in sources):
            self._spikes[first(out)] = True
        elif self._makes_real_values(name, sources):
            self._real[first(out)] = True

    def _makes_real_values(self, name: str, sources: Sequence[Tensor]) -> bool:
        if name in LOOKUPS:
            return self.is_weight(sources[0])
        return name in REAL_VALUED or (
            name in MIXTURES and any(source in self._real for source in sources)
        )


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
