"""Energy reports: priced counts by layer, denoising step and image, as JSON, CSV and table."""

import csv
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import takewhile
from typing import Any

from spikediff.energy.costs import CostTable
from spikediff.energy.ledger import SHOWN, Cell, summed
from spikediff.errors import UserError, check_known
from spikediff.tables import html_table, text_table

# T x rate below which a spiking network uses less energy than its bit-matched counterpart,
# including data movement: with 8-bit weights and T from 1 to 3.
SPIKES_PER_SYNAPSE_LIMITS = (0.21, 0.30)
LIMITS_SOURCE = (
    "Z. Yan et al., Reconsidering the energy efficiency of spiking neural networks inference from "
    "analytical perspectives, arXiv 2409.08290 v4, 2026"
)


@dataclass(frozen=True)
class Traffic:
    """Bytes that synaptic operations move to and from memory, one image at a time."""

    weights: float
    activations: float  # inputs of synapses
    sums: float  # results of synapses; in a spiking network they are the membranes


@dataclass(frozen=True)
class EnergyReport:
    """Observed operations with prices; totals cover all images and denoising steps."""

    accounting: str  # "strict" or "paper"
    costs: CostTable
    batch_norm: str  # "folded" or "billed"
    padding: bool  # whether MACs include the padding's zeros
    spiking_steps: int | None  # T; None for a network without neurons
    images: int  # number of generated images
    # The denoising steps in order; None stands for calls without a timestep.
    timesteps: tuple[float | None, ...]
    cells: tuple[Cell, ...]  # every operation of every layer in every step

    def __post_init__(self) -> None:
        if self.costs.mac_pj is None and self.macs:
            raise UserError(
                f"cost table {self.costs.name!r} has no price for a multiply-accumulate, and "
                f"{self.macs:,} remain; an audit with another table, as of `--costs 45nm --audit`, "
                "names them. Give `mac_pj` of a host processor in a table of your own, or remove "
                "the real-valued layers"
            )

    @cached_property
    def total(self) -> Cell:
        """The sum over everything; events and sites are those of neurons."""
        total = Cell(operation="all")
        for cell in self._counted:
            total += cell
        return total

    @cached_property
    def _counted(self) -> list[Cell]:
        return [c if c.neuron_updates else replace(c, events=0, sites=0) for c in self.cells]

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.total.macs

    @property
    def acs(self) -> int:
        """Accumulates: exact synaptic operations in the strict accounting."""
        return self.total.acs

    @property
    def dense_macs(self) -> int:
        """Multiply-accumulates of a dense engine, which skips nothing."""
        return self.total.dense_macs

    @property
    def neuron_updates(self) -> int:
        """Updates of neurons."""
        return self.total.neuron_updates

    @property
    def energy_pj(self) -> float:
        """Energy of the synaptic operations, in picojoules."""
        return self.energy_of(self.macs, self.acs)

    @property
    def energy_per_image_pj(self) -> float:
        """Energy per image over all denoising steps, in picojoules."""
        return self.energy_pj / self.images

    @property
    def energy_per_step_pj(self) -> float:
        """Mean energy per image and denoising step, in picojoules."""
        return self.energy_per_image_pj / len(self.timesteps)

    @property
    def neuron_energy_pj(self) -> float | None:
        """Energy of the neuron updates, if the table has a price; not part of `energy_pj`."""
        price = self.costs.neuron_update_pj
        return None if price is None else price * self.neuron_updates

    @property
    def firing_rate(self) -> float:
        """Share of neurons that fire, over all layers, spiking steps, images and calls."""
        return self.total.rate

    @property
    def firing_rates(self) -> dict[str, float]:
        """Firing rate of every layer of neurons, in the order of execution."""
        return {cell.layer: cell.rate for cell in self.layers if cell.neuron_updates}

    @cached_property
    def layers(self) -> tuple[Cell, ...]:
        """Every operation of every layer, over all steps, in the order of execution."""
        return tuple(summed(self.cells, lambda cell: (cell.layer, cell.operation)).values())

    @cached_property
    def steps(self) -> tuple[Cell, ...]:
        """Every denoising step, over all layers; events and sites are those of neurons."""
        per_step = summed(self._counted, lambda cell: cell.step)
        return tuple(replace(cell, layer="", operation="all") for cell in per_step.values())

    @cached_property
    def parts(self) -> dict[str, Cell]:
        """Every part of the model, by the first component of the names that differs."""
        billed = [cell for cell in self.cells if cell.macs or cell.acs]
        names = zip(*(cell.layer.split(".")[:-1] for cell in billed), strict=False)
        shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, names))
        return summed(billed, lambda cell: _part(cell.layer, shared))

    def energy_of(self, macs: float, acs: float) -> float:
        """Return the energy of these numbers of operations, in picojoules."""
        return (self.costs.mac_pj or 0.0) * macs + self.costs.ac_pj * acs

    @property
    def spikes_per_synapse(self) -> float | None:
        """T x rate over all synapses that saw spikes; None if there were none."""
        return self.total.spikes_per_synapse

    @property
    def changed_share(self) -> float | None:
        """Share of synapses' inputs that differ from the last call's; None if not compared."""
        return self.total.changed_share

    def traffic(self, reuse: bool = True) -> Traffic:
        """Return the memory traffic of the synaptic operations, over all images and steps.

        With `reuse`, a synapse moves each of its tensors once; without, every operation reads its
        operands. The rules: docs/energy_model.md, "Memory".
        """
        costs, cells = self.costs, [cell for cell in self.cells if cell.calls]
        weights = self.total.weight_reads
        activations = sum(
            (2 + cell.kept) * (cell.input_bits + cell.real_inputs * costs.value_bits)
            for cell in cells
        )
        sums = sum((2 + cell.kept) * cell.results for cell in cells)
        if not reuse:
            weights = self.macs + self.acs
            activations += self.macs * costs.value_bits
            sums += 2 * self.acs
        return Traffic(weights * costs.weight_bits / 8, activations / 8, sums * costs.sum_bits / 8)

    def memory_energy_pj(self, reuse: bool = True) -> float | None:
        """Return the energy of `traffic`, in picojoules; None if the table has no price."""
        price, traffic = self.costs.sram_pj_per_byte, self.traffic(reuse)
        if price is None:
            return None
        weight_price = self.costs.weight_pj_per_byte
        moved = price * (traffic.activations + traffic.sums)
        return moved + (price if weight_price is None else weight_price) * traffic.weights

    def energy_with_memory_pj(self, reuse: bool = True) -> float | None:
        """Return the energy of synaptic operations and of their memory traffic, in picojoules."""
        memory = self.memory_energy_pj(reuse)
        return None if memory is None else self.energy_pj + memory

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return {
            "accounting": self.accounting,
            "costs": asdict(self.costs),
            "batch_norm": self.batch_norm,
            "padding_counted": self.padding,
            "spiking_steps": self.spiking_steps,
            "images": self.images,
            "timesteps": list(self.timesteps),
            "macs": self.macs,
            "acs": self.acs,
            "dense_macs": self.dense_macs,
            "neuron_updates": self.neuron_updates,
            "firing_rate": self.firing_rate,
            "firing_rates": self.firing_rates,
            "spikes_per_synapse": self.spikes_per_synapse,
            "spikes_per_synapse_limits": list(SPIKES_PER_SYNAPSE_LIMITS),
            "spikes_per_synapse_limits_source": LIMITS_SOURCE,
            "changed_share": self.changed_share,
            "energy_pj": self.energy_pj,
            "energy_per_image_pj": self.energy_per_image_pj,
            "energy_per_step_pj": self.energy_per_step_pj,
            "neuron_energy_pj": self.neuron_energy_pj,
            "memory": {
                "every_tensor_once": self._memory(reuse=True),
                "no_reuse": self._memory(reuse=False),
            },
            "steps": [self._row(cell) for cell in self.steps],
            "layers": [self._row(cell) for cell in self.layers],
        }

    def to_json(self) -> str:
        """Return `to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=1) + "\n"

    def to_csv(self) -> str:
        """Return one line per denoising step, layer and operation."""
        lines = io.StringIO()
        writer = csv.DictWriter(lines, ["timestep", *SHOWN, *_PRICES], lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(self._row, self.cells))
        return lines.getvalue()

    def _memory(self, reuse: bool) -> dict[str, float | None]:
        return {
            **{f"{name}_bytes": n for name, n in asdict(self.traffic(reuse)).items()},
            "energy_pj": self.memory_energy_pj(reuse),
            "energy_with_memory_pj": self.energy_with_memory_pj(reuse),
        }

    def _row(self, cell: Cell) -> dict[str, Any]:
        energy = self.energy_of(cell.macs, cell.acs)
        prices = (energy, cell.rate, cell.spikes_per_synapse, cell.changed_share)
        counts = {name: getattr(cell, name) for name in SHOWN}
        first = {"timestep": self.timesteps[cell.step]}
        return first | counts | dict(zip(_PRICES, prices, strict=True))

    def table(self, by: str = "part") -> str:
        """Return a table for one image, by "part" of the model, "layer" or denoising "step".

        It is at most 80 columns wide.
        """
        return text_table(self._table(by))

    @property
    def summary(self) -> str:
        """The energy per image and the accounting, in one line."""
        steps = len(self.timesteps)
        return (
            f"{self.energy_per_image_pj / 1e6:,.3f} uJ per image, "
            f"{self.energy_per_step_pj / 1e6:,.3f} uJ per denoising step of {steps}; "
            f"{self.accounting} accounting, {self.costs.name}"
        )

    def __str__(self) -> str:
        return f"{self.summary}\n\n{self.table()}"

    def _repr_html_(self) -> str:
        return html_table(self._table("part"), self.summary)

    def _table(self, by: str) -> list[list[str]]:
        check_known("table", by, _TABLES)
        rows = [self._cells(name, cell.signal, cell) for name, cell in _TABLES[by](self)]
        # A step shows the rate of its neurons, a layer that of its inputs, which have no total.
        of_neurons = by == "step"
        total = self.total if of_neurons else replace(self.total, sites=0)
        header = [_FIRING.get(name, name) for name in _HEADER] if of_neurons else _HEADER
        return [header, *rows, self._cells("total", "-", total)]

    def _cells(self, name: str, signal: str, cell: Cell) -> list[str]:
        """Return the entries of a line: amounts per image."""
        known, energy = cell.spikes_per_synapse, self.energy_of(cell.macs, cell.acs)
        return [
            name,
            signal,
            f"{cell.rate:.1%}" if cell.sites else "-",
            "-" if known is None else f"{known:.3f}",
            *(_millions(number / self.images) for number in (cell.macs, cell.acs)),
            microjoule(energy / self.images),
            f"{energy / self.energy_pj if self.energy_pj else 0.0:.1%}",
        ]


_PRICES = ("energy_pj", "rate", "spikes_per_synapse", "changed_share")
_HEADER = ["per image", "input", "active", "T x rate", "MACs [M]", "ACs [M]", "uJ", "share"]

_FIRING = {"active": "firing"}

_TABLES: dict[str, Callable[[EnergyReport], Iterable[tuple[str, Cell]]]] = {
    "part": lambda report: report.parts.items(),
    "layer": lambda report: (
        (f"{cell.layer or '(model)'} {cell.operation}", cell)
        for cell in report.layers
        if cell.macs or cell.acs
    ),
    "step": lambda report: (
        (_step_name(report.timesteps[cell.step]), cell) for cell in report.steps
    ),
}


def _part(layer: str, shared: int) -> str:
    """Return the part of the model that a layer belongs to, without the common prefix."""
    path = layer.split(".")
    return path[min(shared, len(path) - 1)] or "(model)"


def _step_name(timestep: float | None) -> str:
    return "once" if timestep is None else f"timestep {timestep:g}"


def _millions(number: float) -> str:
    millions = number / 1e6
    return f"{millions:,.3f}" if millions < 1e4 else f"{millions:,.0f}"


def microjoule(pj: float) -> str:
    """Return an energy in microjoules, in at most nine characters.

    Example:
        >>> microjoule(1.5e6), microjoule(123.4e6), microjoule(2e12)
        ('1.5000', '123.4', '2.000e+06')
    """
    uj = pj / 1e6
    return f"{uj:.3e}" if uj >= 1e6 else f"{uj:,.1f}" if uj >= 100 else f"{uj:.4f}"
