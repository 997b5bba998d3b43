"""Counts of operations: the same record for a call, a layer, a denoising step and a report."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, fields, replace
from typing import TypeVar

from spikediff.errors import UserError

Key = TypeVar("Key", bound=Hashable)

REAL = "real"
KINDS = ("synapse", "norm", "neuron", "arithmetic")  # the order of a report's rows


@dataclass(slots=True)
class Cell:
    """Operations of one kind, summed over all images; `+` adds cells.

    The meter fills in everything except `macs` and `acs`, which come from an accounting.
    """

    step: int = 0  # index of the denoising step
    layer: str = ""  # name of the module that ran the operation; "" for the model itself
    operation: str = ""  # "conv2d 3x3", "linear", "batch norm", "neuron", "addition", ...
    # Kinds of input: "real", "binary", "ternary", "integer", "silent", or several.
    signal: str = REAL
    macs: int = 0  # multiply-accumulates according to the accounting
    acs: int = 0  # accumulates according to the accounting
    # Multiply-accumulates of a dense engine, at every spiking step, including the padding's zeros.
    dense_macs: int = 0
    # Spikes: emitted by a neuron, otherwise arriving or, with changes, changed. For real values,
    # all elements.
    events: int = 0
    sites: int = 0  # elements that could hold an event
    neuron_updates: int = 0  # updates of neurons, one per neuron, spiking step and image
    # Elements of arithmetic that is counted and listed in the audit, but not billed.
    elements: int = 0
    weights: int = 0  # elements of the weight; 0 where both operands are data
    outputs: int = 0  # elements of the result
    calls: int = 0
    synops: int = 0  # exact number of accumulates caused by spikes; 0 for real values
    # Dense operations of one pass with T = 1 through the synapses that received spikes, without
    # the padding's zeros. (The meter adds those of all T steps.)
    pass_macs: float = 0
    compared: int = 0  # input elements that were compared with those of the last call
    changed: int = 0  # input elements that differed
    kept: bool = False  # whether the call started from the sums of the last one
    # Elements of the weight, multiplied by the images and network calls that need them.
    weight_reads: int = 0
    input_bits: int = 0  # bits of the inputs of known width: spikes, and values in fixed point
    real_inputs: int = 0  # other real-valued input elements, T identical copies counted once
    results: int = 0  # elements of the result, T identical copies counted once
    # The remaining fields are inputs of the accountings; reports do not show them.
    kind: str = "synapse"  # one of `KINDS`
    copies: int = 1  # number of repetitions of a real-valued input along the leading axis
    inner_macs: int = 0  # `dense_macs` without the padding's zeros
    rated_macs: float = 0.0  # `dense_macs` times the share of active inputs, call by call
    # Operations caused by the changes since the last call: accumulates of spikes, multiply-
    # accumulates of quantised values. If changes were not tracked, all operations; those of real
    # values also meet the padding's zeros.
    changes: int = 0
    changes_in_padding: int = 0
    # Changed spikes or values. If changes were not tracked, all spikes or values.
    change_events: int = 0
    followed: bool = False  # whether inputs were compared with those of the last call
    foldable: bool = False  # whether a norm can be folded into the synapses before it

    @classmethod
    def of_synapse(
        cls,
        operation: str,
        signal: str,
        dense_macs: int,
        inner_macs: int,
        synops: int,
        events: int,
        sites: int,
        copies: int = 1,
        weights: int = 0,
        bits: int = 0,
    ) -> "Cell":
        """Return one call of a synapse with inputs of `bits` each, without tracked changes."""
        real = signal == REAL
        return cls(
            operation=operation,
            signal=signal,
            dense_macs=dense_macs,
            inner_macs=inner_macs,
            rated_macs=dense_macs * events / max(1, sites),
            synops=synops,
            events=events,
            sites=sites,
            weights=weights,
            calls=1,
            pass_macs=0 if real else inner_macs,
            input_bits=bits * sites,
            real_inputs=sites if real and not bits else 0,
            copies=copies,
            changes=inner_macs if real else synops,
            changes_in_padding=dense_macs - inner_macs if real else 0,
            change_events=events,
        )

    @property
    def spikes_per_synapse(self) -> float | None:
        """T x rate: spikes per synapse and call; None if no synapse saw spikes."""
        return self.synops / self.pass_macs if self.pass_macs else None

    @property
    def changed_share(self) -> float | None:
        """Share of the input that differs from the last call's; None if it was not compared."""
        return self.changed / self.compared if self.compared else None

    @property
    def rate(self) -> float:
        """Share of active sites: the firing rate where spikes were counted."""
        return self.events / self.sites if self.sites else 0.0

    def once(self, amount: int, spiking_steps: int) -> int:
        """Return an amount of this cell with T identical copies counted as one."""
        return amount // spiking_steps if self.copies % spiking_steps == 0 else amount

    def __iadd__(self, other: "Cell") -> "Cell":
        for name in _SUMMED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.weights = max(self.weights, other.weights)
        if self.signal != other.signal:
            signals = {*self.signal.split("+"), *other.signal.split("+")}
            self.signal = "+".join(sorted(signals))
        return self

    def __add__(self, other: "Cell") -> "Cell":
        total = replace(self)
        total += other
        return total


_NOT_SUMMED = {"step", "layer", "operation", "signal", "weights", "kind", "copies"}
_NOT_SUMMED |= {"kept", "followed", "foldable"}
_NAMES = [f.name for f in fields(Cell)]
_SUMMED = [name for name in _NAMES if name not in _NOT_SUMMED]
SHOWN = _NAMES[: _NAMES.index("kind")]
"""The names of a report's row."""


def summed(cells: Iterable[Cell], key: Callable[[Cell], Key]) -> dict[Key, Cell]:
    """Add up the cells of equal key, in the order of their first appearance."""
    sums: dict[Key, Cell] = {}
    for cell in cells:
        name = key(cell)
        if name in sums:
            sums[name] += cell
        else:
            sums[name] = replace(cell)
    return sums


@dataclass
class Ledger:
    """Everything that was observed, before an accounting.

    Attributes:
        spiking_steps: T, as given or as observed at the first layer of neurons; None if neither.
        given_images: Number of images, if given.
        rows: Rows of the network's calls, by timestep, in the order of the first call; the key None
            stands for calls without a timestep.
        stepped: Images of the scheduler's steps, by timestep.
        levels: Number of neurons and steps by D, the most spikes that a neuron emits in a step.
    """

    spiking_steps: int | None = None
    given_images: int | None = None
    rows: dict[float | None, int] = field(default_factory=dict)
    stepped: Counter[float | None] = field(default_factory=Counter)
    levels: Counter[int] = field(default_factory=Counter)
    _cells: dict[Hashable, Cell] = field(default_factory=dict)

    def step(self, timestep: float | None) -> int:
        """Return the index of a timestep's denoising step; append it if it is new."""
        self.rows.setdefault(timestep, 0)
        return list(self.rows).index(timestep)

    def add(self, cell: Cell) -> None:
        """Add a call; the ledger then owns its cell."""
        what = (cell.step, cell.kind, cell.layer, cell.operation, cell.signal == REAL, cell.copies)
        key = (*what, cell.kept, cell.followed, cell.foldable)
        if key in self._cells:
            self._cells[key] += cell
        else:
            self._cells[key] = cell

    @property
    def images(self) -> int:
        """Number of images: as given; else of the first step, else of the first network call.

        Rows of calls may be more than images: with guidance, twice as many.
        """
        seen = (self.given_images, *self.stepped.values(), *self.rows.values())
        images = next(filter(None, seen), 0)
        if not images:
            raise UserError(
                "EnergyMeter: the number of images is unknown, because neither a scheduler's step "
                "nor a network's `forward` ran; give EnergyMeter(images=...)"
            )
        return images

    @property
    def cells(self) -> list[Cell]:
        """All counts by step, then by kind; arithmetic by layer, others in order of execution."""
        place: dict[tuple[int, str], int] = {}
        for cell in self._cells.values():
            if cell.kind == "arithmetic":
                place.setdefault((cell.step, cell.layer), len(place))

        def order(cell: Cell) -> tuple[int, int, int]:
            among = place[cell.step, cell.layer] if cell.kind == "arithmetic" else 0
            return cell.step, KINDS.index(cell.kind), among

        return sorted(self._cells.values(), key=order)

    @property
    def activation_bits(self) -> int:
        """Bits of a count from 0 to T D, as carried by a window of most neurons."""
        most = max(self.levels, key=self.levels.__getitem__, default=1)
        return ((self.spiking_steps or 1) * most).bit_length()

    @property
    def follows_changes(self) -> bool:
        """Whether the inputs of synapses were compared with those of the last call."""
        return any(cell.followed for cell in self._cells.values())
