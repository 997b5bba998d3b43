"""What a neuromorphic chip could not run: every operation that is no accumulate.

A chip of spiking neurons adds weights where spikes arrive, leaks, compares and resets. The audit
names everything else that a model does, with what it would cost as multiply-accumulates.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from spikediff.energy.ledger import Cell
from spikediff.energy.report import EnergyReport
from spikediff.errors import UserError


@dataclass(frozen=True)
class Finding:
    """One operation of one layer that is no accumulate.

    Attributes:
        layer: The module that runs it; "scheduler" for arithmetic between two denoising steps.
        operation: What it is.
        reason: Why a chip could not run it as accumulates.
        amount: MACs, or elements of arithmetic.
        energy_pj: What it costs, every element at the price of one MAC, in picojoules.
        share: Its share of the energy of everything, this arithmetic included.
    """

    layer: str
    operation: str
    reason: str
    amount: int
    energy_pj: float
    share: float


@dataclass(frozen=True)
class Audit:
    """The verdict.

    Attributes:
        findings: What is no accumulate, the most expensive first.
    """

    findings: tuple[Finding, ...]

    @property
    def fully_spiking(self) -> bool:
        """Whether the network does nothing but accumulate (the scheduler is not the network)."""
        return all(finding.layer == "scheduler" for finding in self.findings)

    @property
    def share(self) -> float:
        """Share of the energy that is spent on what a chip could not run."""
        return sum(finding.share for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        findings = [asdict(finding) for finding in self.findings]
        return {"fully_spiking": self.fully_spiking, "share": self.share, "findings": findings}

    def table(self) -> str:
        """Return a table for a terminal."""
        lines = [f"{'operation':<58} {'amount':>14} {'energy [uJ]':>12} {'share':>6}  why"]
        lines += [
            f"{(f.layer + ': ' + f.operation)[:58]:<58} {f.amount:>14,} {f.energy_pj / 1e6:>12.4f} "
            f"{f.share:6.1%}  {f.reason}"
            for f in self.findings
        ]
        verdict = "fully spiking" if self.fully_spiking else "not fully spiking"
        lines.append(f"{verdict}: {self.share:.1%} of the energy is spent on the above")
        return "\n".join(lines)


def audit(report: EnergyReport) -> Audit:
    """Name every operation that is no accumulate.

    Args:
        report: A report in the strict accounting.

    Raises:
        UserError: The accounting is another, or the table has no price for a MAC.
    """
    if report.accounting != "strict":
        raise UserError("the audit needs the strict accounting; the paper's hides what it seeks")
    mac = report.costs.mac_pj
    if mac is None:
        raise UserError(f"cost table {report.costs.name!r} has no price for a multiply-accumulate")
    found = [(cell, *why) for cell in report.layers if (why := _objection(cell)) is not None]
    unbilled = sum(mac * amount for cell, _why, amount in found if not cell.macs)
    total = (report.energy_pj + unbilled) or 1.0
    findings = (
        Finding(cell.layer or "(model)", cell.operation, why, n, mac * n, mac * n / total)
        for cell, why, n in found
    )
    return Audit(tuple(sorted(findings, key=lambda finding: -finding.energy_pj)))


def _objection(cell: Cell) -> tuple[str, int] | None:
    """Return why a cell is no accumulate and how much of it there is; None where it is one."""
    return next(_objections(cell), None)


def _objections(cell: Cell) -> Iterator[tuple[str, int]]:
    if cell.operation == "scaling by a parameter":
        yield "multiplies by a parameter", cell.macs
    elif cell.calls and cell.macs:
        yield "real-valued input", cell.macs
    elif "norm" in cell.operation and not cell.operation.endswith("folded"):
        yield "a norm that cannot be folded", cell.elements
    elif cell.operation == "scaling":
        yield "multiplies by a number", cell.elements
    elif cell.operation == "multiplication":
        yield "multiplies values", cell.elements
    elif cell.operation == "function" or cell.operation.startswith("other"):
        yield "a non-linear function", cell.elements
