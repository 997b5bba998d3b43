"""What was measured: groups of rows that stand beside one another, and their print."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from performance.missing import Missing
from performance.timing import Clock, interleave


@dataclass(frozen=True)
class Row:
    """One way of doing what its group is about.

    Attributes:
        median: Seconds or bytes.
        minimum: The same, least disturbed.
        ratio: The median over that of the group's first row; less is better.
        rounds: Measurements behind it.
    """

    median: float
    minimum: float
    ratio: float
    rounds: int


@dataclass(frozen=True)
class Group:
    """Rows measured in one run, in turns.

    Attributes:
        section: Part of the benchmark.
        name: The case; a section has it once.
        unit: "s" or "B".
        rows: By implementation; the first is what the others are divided by.
        missing: Why an implementation has no row.
        facts: What else belongs to the figures: firing rates, agreement, whose weights.
    """

    section: str
    name: str
    unit: str
    rows: dict[str, Row]
    missing: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Section and case."""
        return f"{self.section}: {self.name}"


def group_of_json(stored: Mapping[str, Any]) -> Group:
    """Return a group as `dataclasses.asdict` wrote it."""
    rows = {name: Row(**row) for name, row in stored["rows"].items()}
    return Group(**{**stored, "rows": rows})


@dataclass(frozen=True)
class Patience:
    """How long to measure: rounds, and the seconds of a group after which it may stop earlier."""

    clock: Clock
    rounds: int
    budget: float


def available(
    makers: Mapping[str, Callable[[], Any]],
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what could be made, and why the rest could not."""
    made, missing = {}, {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except Missing as reason:
            missing[name] = str(reason)
    return made, missing


def times(
    section: str,
    name: str,
    runs: Mapping[str, Callable[[], object]],
    patience: Patience,
    missing: Mapping[str, str] | None = None,
    facts: Mapping[str, Any] | None = None,
    warm_up: int = 1,
    calls: Mapping[str, int] | None = None,
) -> Group:
    """Time callables in turns; the first is what the others are divided by.

    A row is of one call of what its callable calls more than once, as `calls` says.
    """
    found = interleave(runs, patience.rounds, patience.clock, warm_up, patience.budget)
    many = dict.fromkeys(found, 1) | dict(calls or {})
    medians = {key: t.median / many[key] for key, t in found.items()}
    first = next(iter(medians.values()))
    rows = {
        key: Row(medians[key], t.minimum / many[key], medians[key] / first, len(t.seconds))
        for key, t in found.items()
    }
    return Group(section, name, "s", rows, dict(missing or {}), dict(facts or {}))


def sizes(
    section: str,
    name: str,
    bytes_of: Mapping[str, int],
    missing: Mapping[str, str] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Group:
    """Put bytes, each counted once, beside one another."""
    first = next(iter(bytes_of.values()))
    rows = {key: Row(n, n, n / first, 1) for key, n in bytes_of.items()}
    return Group(section, name, "B", rows, dict(missing or {}), dict(facts or {}))


def lines(group: Group) -> list[str]:
    """Return a group as lines of the printed table."""
    told = [f"\n{group.key}"]
    if group.unit == "s":
        told += [
            f"  {f.replace('_', ' ')}: {_told(v)}" for f, v in group.facts.items() if _short(f)
        ]
    for name, row in group.rows.items():
        least = f"({quantity(row.minimum, group.unit)})"
        per_image = group.facts.get("images_per_second", {}).get(name)
        also = "" if per_image is None else f"  {per_image:8.2f} images/s"
        told.append(
            f"  {name:<24} {quantity(row.median, group.unit):>10} {least:>12}"
            f"  ratio {row.ratio:6.3f}  = {1 / row.ratio:6.2f}x{also}"
        )
    told += [f"  {name:<24} -- {reason}" for name, reason in group.missing.items()]
    return told


def quantity(value: float, unit: str) -> str:
    """Return seconds or bytes for people.

    Example:
        >>> quantity(0.0123, "s"), quantity(3 * 2**20, "B")
        ('12.3 ms', '3.0 MiB')
    """
    if unit == "B":
        return f"{value / 2**20:.1f} MiB"
    return f"{value:.3f} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def _short(fact: str) -> bool:
    return fact not in ("firing_rates", "images_per_second", "seconds_by_operator", "parts")


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {share:.4g}" for name, share in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
