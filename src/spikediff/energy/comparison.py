r"""A spiking network beside its ordinary counterpart: in float32, quantised, and by differences.

A window of T steps with up to D spikes each carries $\lceil \log_2(T D + 1) \rceil$ bits. The fair
counterpart has activations of the same number of bits, and both have 8-bit weights.

Reference: Yan et al., "Reconsidering the energy efficiency of spiking neural networks inference
from analytical perspectives", arXiv 2409.08290 v4, theorem 1.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from spikediff.energy.changes import QuantisedActivations
from spikediff.energy.costs import CostTable
from spikediff.energy.meter import EnergyMeter
from spikediff.energy.report import SPIKES_PER_SYNAPSE_LIMITS, EnergyReport, microjoule

WEIGHT_BITS = 8  # width of the integer weights of both networks
REAL_BITS = 16  # width of real-valued inputs of an integer spiking network: image, currents

_ENERGIES: dict[str, Callable[[EnergyReport], float | None]] = {
    "arithmetic": lambda report: report.energy_pj,
    "with_memory_tensors_once": lambda report: report.energy_with_memory_pj(),
    "with_memory_no_reuse": lambda report: report.energy_with_memory_pj(reuse=False),
}
_LABELS = ("arithmetic", "  + memory, tensors once", "  + memory, no reuse")


@dataclass(frozen=True)
class Column:
    """One way to run a network."""

    title: tuple[str, str]  # two lines
    plain: EnergyReport | None = None  # priced by the cost table; None if not applicable
    # Priced as integers with 8-bit weights; None if the table has no such prices.
    whole: EnergyReport | None = None

    @property
    def spikes_per_synapse(self) -> float | None:
        """T x rate; None without spikes, or where the network cannot run this way."""
        report = self.plain or self.whole
        return None if report is None else report.spikes_per_synapse

    @property
    def changed_share(self) -> float | None:
        """Share of inputs that changed between two calls; None if not measured."""
        report = self.plain or self.whole
        return None if report is None else report.changed_share

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return {
            "spikes_per_synapse": self.spikes_per_synapse,
            "changed_share": self.changed_share,
            "plain": self.plain and _figures(self.plain),
            "whole_numbers": self.whole and _figures(self.whole),
        }


@dataclass(frozen=True)
class Comparison:
    """The columns of the comparison."""

    activation_bits: int  # width of the quantised counterpart's activations
    # Keys: "ordinary", "quantised", "quantised_by_differences" (if measured), "spiking",
    # "spiking_by_changes".
    columns: dict[str, Column]
    # Whether the counterpart was trained. Its weights do not affect its cost, but they do affect
    # the share of zero differences.
    trained: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return {
            "activation_bits": self.activation_bits,
            "weight_bits": WEIGHT_BITS,
            "counterpart_trained": self.trained,
            "columns": {key: column.to_dict() for key, column in self.columns.items()},
        }

    def table(self) -> str:
        """Return a table for a terminal, at most 80 columns wide."""
        columns = list(self.columns.values())
        lines = [_line("", [column.title[i] for column in columns]) for i in (0, 1)]
        for unit, per_step in (("image", False), ("image and denoising step", True)):
            lines.append(f"uJ per {unit}")
            lines += _rows([column.plain for column in columns], per_step, None)
            lines += _rows([column.whole for column in columns], per_step, WEIGHT_BITS)
        rates = [column.spikes_per_synapse for column in columns]
        shares = [column.changed_share for column in columns]
        lines.append(_line("T x rate", ["-" if r is None else f"{r:.3f}" for r in rates]))
        lines.append(
            _line("inputs that change", ["-" if s is None else f"{s:.1%}" for s in shares])
        )
        return "\n".join([*lines, *self._notes()])

    def _notes(self) -> list[str]:
        low, high = SPIKES_PER_SYNAPSE_LIMITS
        notes = [
            f"quantised: activations of {self.activation_bits} bits, as many as the spikes carry; a"
            " spiking network",
            f"beats it below a T x rate of {low:.2f} to {high:.2f} (Yan et al., arXiv 2409.08290 "
            "v4)",
        ]
        differences = self.columns.get("quantised_by_differences", Column(("", "")))
        if differences.changed_share is not None:
            zero = f"Ditto: {1 - differences.changed_share:.1%} of the differences are zero"
            notes.append(
                f"{zero}, of {'a trained' if self.trained else 'an untrained'} counterpart"
            )
            if not self.trained:
                notes.append("(random weights see little of the noise: give one that was trained)")
        return notes


def compare(
    spiking: EnergyMeter,
    ordinary: EnergyMeter,
    costs: CostTable,
    differences: EnergyMeter | None = None,
    trained: bool = False,
    accounting: str = "strict",
    **options: Any,
) -> Comparison:
    """Compare a spiking network with its ordinary counterpart.

    Args:
        spiking: Meter of the spiking network, with `changes=True` for its last column.
        ordinary: Meter of the ordinary network.
        costs: Prices; `CostTable.quantised` derives integer prices.
        differences: The result of `measure_differences` for the ordinary network, if any.
        trained: Whether the ordinary network is trained.
        accounting: As in `EnergyMeter.report`.
        **options: `batch_norm` and `padding`, as in `EnergyMeter.report`.
    """

    def price(meter: EnergyMeter, bits: int | None, changes: bool = False) -> EnergyReport | None:
        table = costs if bits is None else costs.quantised(bits, WEIGHT_BITS)
        if table is None:
            return None
        return meter.report(accounting, table, changes=changes, **options)

    ledger = spiking.ledger
    bits = ledger.activation_bits
    follows = accounting == "strict" and ledger.spiking_steps == 1 and ledger.follows_changes
    columns = {
        "ordinary": Column(("ordinary", costs.name), price(ordinary, None)),
        "quantised": Column(("quantised", f"8x{bits} bits"), whole=price(ordinary, bits)),
    }
    if differences is not None:
        columns["quantised_by_differences"] = Column(
            ("quantised", "Ditto"), whole=price(differences, bits, changes=True)
        )
    columns["spiking"] = Column(("spiking", ""), price(spiking, None), price(spiking, REAL_BITS))
    columns["spiking_by_changes"] = Column(
        ("spiking", "changes"),
        price(spiking, None, changes=True) if follows else None,
        price(spiking, REAL_BITS, changes=True) if follows else None,
    )
    return Comparison(bits, columns, trained)


def measure_differences(target: Any, generate: Callable[[], object], bits: int) -> EnergyMeter:
    """Return a meter for Ditto's computation: its `report(changes=True)` counts differences.

    A first generation chooses the ranges for quantising the synapses' inputs to `bits`; a second
    generation is measured. `generate` must make the same images every time, and `target` must have
    no neurons.
    """
    activations = QuantisedActivations(bits)
    with EnergyMeter(target, changes=True, activations=activations):
        generate()
    activations.fix()
    with EnergyMeter(target, changes=True, activations=activations) as meter:
        generate()
    return meter


def _figures(report: EnergyReport) -> dict[str, Any]:
    return {
        "costs": report.costs.name,
        "mac_pj": report.costs.mac_pj,
        "ac_pj": report.costs.ac_pj,
        "macs": report.macs,
        "acs": report.acs,
        "energy_per_image_pj": _energies(report, per_step=False),
        "energy_per_call_pj": _energies(report, per_step=True),
    }


def _energies(report: EnergyReport, per_step: bool) -> dict[str, float | None]:
    """Return the energies of an image, or of one denoising step of it, in picojoules."""
    units = report.images * (len(report.timesteps) if per_step else 1)
    energies = {name: energy(report) for name, energy in _ENERGIES.items()}
    return {name: None if pj is None else pj / units for name, pj in energies.items()}


def _rows(
    reports: Sequence[EnergyReport | None], per_step: bool, weight_bits: int | None
) -> list[str]:
    """Return the lines for one number format; none if no report has it."""
    known = next((report for report in reports if report is not None), None)
    if known is None:
        return []
    words = f" {known.costs.name[:12]}" if weight_bits is None else f" {weight_bits}-bit weights"
    energies = [{} if r is None else _energies(r, per_step) for r in reports]
    return [
        _line(
            f"{words}, {label}" if name == "arithmetic" else f" {label}",
            ("-" if pj is None else microjoule(pj) for pj in row),
        )
        for name, label in zip(_ENERGIES, _LABELS, strict=True)
        for row in [[energy.get(name) for energy in energies]]
    ]


def _line(label: str, cells: Iterable[str]) -> str:
    return f"{label[:28]:<28}" + "".join(f" {cell[:9]:>9}" for cell in cells)
