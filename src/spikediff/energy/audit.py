"""The audit: which operations of a model accumulate-only hardware cannot run.

Neuromorphic hardware adds weights for arriving spikes, leaks, compares and resets. The audit lists
every other operation, priced as multiply-accumulates.
"""

from dataclasses import asdict, dataclass
from typing import Any

from spikediff.energy.ledger import Cell
from spikediff.energy.report import EnergyReport, microjoule
from spikediff.errors import UserError
from spikediff.tables import text_table


@dataclass(frozen=True)
class Finding:
    """An operation of a layer that is not an accumulate."""

    layer: str  # the module that runs it; "scheduler" for arithmetic between denoising steps
    operation: str
    reason: str  # why accumulates cannot replace it
    amount: int  # MACs, or elements of arithmetic
    energy_pj: float  # its energy in picojoules, at one MAC per element
    share: float  # its share of the total energy, including this arithmetic


@dataclass(frozen=True)
class Audit:
    """The operations that are not accumulates, the most expensive first."""

    findings: tuple[Finding, ...]
    images: int = 1  # number of generated images

    @property
    def fully_spiking(self) -> bool:
        """Whether the network only accumulates (the scheduler does not count)."""
        return all(finding.layer == "scheduler" for finding in self.findings)

    @property
    def share(self) -> float:
        """Share of the energy spent on the findings."""
        return sum(finding.share for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        findings = [asdict(finding) for finding in self.findings]
        return {"fully_spiking": self.fully_spiking, "share": self.share, "findings": findings}

    def table(self) -> str:
        """Return a table for one image, grouped by reason, at most 80 columns wide."""
        rows = [["not an accumulate, per image", "operations", "uJ", "share"]]
        for reason in dict.fromkeys(finding.reason for finding in self.findings):
            rows.append([f"{reason}:", "", "", ""])
            rows += [self._row(each) for each in self.findings if each.reason == reason]
        lines = [text_table(rows)]
        verdict = "fully spiking" if self.fully_spiking else "not fully spiking"
        lines.append(f"{verdict}: {self.share:.1%} of the energy is spent on the above")
        return "\n".join(lines)

    def _row(self, finding: Finding) -> list[str]:
        return [
            f"  {finding.layer}: {finding.operation}",
            f"{finding.amount / self.images:,.0f}",
            microjoule(finding.energy_pj / self.images),
            f"{finding.share:.1%}",
        ]


def audit(report: EnergyReport) -> Audit:
    """List every operation of a report that is not an accumulate, in the strict accounting."""
    if report.accounting != "strict":
        raise UserError(
            "the audit needs the strict accounting; the paper's hides the operations it lists"
        )
    mac = report.costs.mac_pj
    if mac is None:
        raise UserError(f"cost table {report.costs.name!r} has no price for a multiply-accumulate")
    found = [
        (cell, why, cell.macs or cell.elements) for cell in report.layers if (why := _reason(cell))
    ]
    unbilled = sum(mac * amount for cell, _why, amount in found if not cell.macs)
    total = (report.energy_pj + unbilled) or 1.0
    findings = (
        Finding(cell.layer or "(model)", cell.operation, why, n, mac * n, mac * n / total)
        for cell, why, n in found
    )
    return Audit(tuple(sorted(findings, key=lambda each: -each.energy_pj)), report.images)


_REASONS = {
    "scaling by a parameter": "multiplies by a parameter",
    "scaling": "multiplies by a number",
    "multiplication": "multiplies values",
    "function": "a non-linear function",
}


def _reason(cell: Cell) -> str | None:
    """Return why a cell is not an accumulate; None if it is."""
    if cell.operation in _REASONS:
        return _REASONS[cell.operation]
    if cell.kind == "synapse" and cell.macs:
        return "real-valued input"
    if cell.kind == "norm" and not cell.operation.endswith("folded"):
        return "a norm that cannot be folded"
    return _REASONS["function"] if cell.operation.startswith("other") else None
