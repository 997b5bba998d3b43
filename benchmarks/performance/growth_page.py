"""The page of growth."""

from pathlib import Path
from typing import Any

from performance.growth_plot import LABELS
from performance.growth_section import BASE, Curve, curve_of_json
from performance.table import quantity

_HEAD = Path(__file__).with_name("growth_page.md")


def page(table: dict[str, Any]) -> str:
    """Return the page of a table that the command `performance` wrote."""
    curves = [curve_of_json(stored) for stored in table["growth"]]
    shown = ("cpu", "cpus", "capability", "torch", "load_average", "date")
    machine = ", ".join(
        f"{key} {table['machine'][key]}" for key in shown if key in table["machine"]
    )
    parts = [_HEAD.read_text(encoding="utf-8").format(**vars(BASE), machine=machine)]
    for axis in dict.fromkeys(curve.axis for curve in curves):
        parts.append(_table(axis, [curve for curve in curves if curve.axis == axis]))
    return "\n".join(parts)


def _table(axis: str, curves: list[Curve]) -> str:
    points = [str(x) for x in curves[0].x]
    head = [LABELS[axis], *points, "exponent", "last", "bends at"]
    title = LABELS[axis][0].upper() + LABELS[axis][1:]
    rows = [f"## {title}\n", _row(head), _row(["---"] * len(head))]
    for curve in curves:
        cells = [
            f"{quantity(s, 's')}<br>{quantity(m, 'B')}"
            for s, m in zip(curve.seconds, curve.memory, strict=True)
        ]
        error = "" if curve.law.error != curve.law.error else f" ± {curve.law.error:.2f}"
        bend = curve.bend()
        law = [f"{curve.law.exponent:.2f}{error}", f"{curve.law.last:.2f}"]
        rows.append(_row([curve.form, *cells, *law, "" if bend is None else str(bend)]))
    return "\n".join([*rows, ""])


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
