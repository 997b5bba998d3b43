"""Whether our ratios got worse than those that are committed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from performance.systems import OURS
from performance.table import Group, Row

TOLERANCE = 0.30  # a ratio's spread over runs on a shared machine stays below


@dataclass(frozen=True)
class Verdict:
    """What a comparison found.

    Attributes:
        compared: How many ratios were compared.
        worse: What got worse, or is no longer there; each a line.
        skipped: What was not compared, and why; each a line.
    """

    compared: int
    worse: dict[str, str]
    skipped: list[str]

    @property
    def passed(self) -> bool:
        """Whether nothing got worse, of at least one thing that could."""
        return self.compared > 0 and not self.worse


def compare(
    committed: Iterable[Group], measured: Iterable[Group], tolerance: float = TOLERANCE
) -> Verdict:
    """Compare the ratios of our rows with the committed ones.

    A ratio is a row over the first row of its group, measured in the same run, so another
    machine's speed does not matter; its kind may. Peers may become slower as they like.

    Args:
        committed: The groups of the committed table.
        measured: Those of now.
        tolerance: By what share a ratio may be worse.
    """
    now = {group.key: group for group in measured}
    compared, worse, skipped = 0, {}, []
    for old in committed:
        new = now.get(old.key)
        reason = _incomparable(old, new)
        if reason is not None or new is None:
            skipped.append(f"{old.key}: {reason}")
            continue
        divisor = next(iter(old.rows))  # its ratio is 1 whatever happens
        for name, row in old.rows.items():
            if name == divisor or not name.startswith(OURS):
                continue
            compared += 1
            found = new.rows.get(name)
            said = _complaint(row, found, new.missing.get(name), tolerance)
            if said is not None:
                worse[f"{old.key}, {name}"] = said
    return Verdict(compared, worse, skipped)


def _incomparable(old: Group, new: Group | None) -> str | None:
    if new is None:
        return "not measured now"
    if next(iter(old.rows)) != next(iter(new.rows)):
        return "divided by another row"
    if old.facts.get("weights") != new.facts.get("weights"):
        return f"other weights: {old.facts.get('weights')}; now {new.facts.get('weights')}"
    return None


def _complaint(old: Row, new: Row | None, reason: str | None, tolerance: float) -> str | None:
    if new is None:
        return f"ratio {old.ratio:.3f} before, no row now ({reason})"
    if new.ratio <= old.ratio * (1 + tolerance):
        return None
    return (
        f"ratio {new.ratio:.3f} instead of {old.ratio:.3f}: {new.ratio / old.ratio - 1:.0%} worse, "
        f"{tolerance:.0%} allowed"
    )


def worst_of_two(first: Verdict, second: Verdict) -> Verdict:
    """Return the verdict of two measurements: worse is what was worse both times.

    Args:
        first: Of everything.
        second: Of what was worse then, measured again.
    """
    worse = {key: second.worse[key] for key in first.worse if key in second.worse}
    return Verdict(first.compared, worse, first.skipped)


def lines(verdict: Verdict, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the verdict for people.

    Args:
        verdict: The verdict.
        before: Facts of the machine of the committed table.
        now: Facts of this one.
    """
    told = [f"  not compared -- {line}" for line in verdict.skipped]
    for fact in ("cpu", "torch", "threads"):
        if before.get(fact) != now.get(fact):
            told.append(f"  note: {fact} was {before.get(fact)}, is {now.get(fact)}")
    told += [f"  WORSE -- {key}: {line}" for key, line in verdict.worse.items()]
    if not verdict.compared:
        told.append("  WORSE -- nothing could be compared; give the options of the committed table")
    outcome = "passed" if verdict.passed else "FAILED"
    told.append(f"guard {outcome}: {verdict.compared} ratios, {len(verdict.worse)} worse")
    return told
