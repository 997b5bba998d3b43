"""The page of growth."""

from pathlib import Path
from typing import Any

from results import grid

from performance.growth_plot import LABELS
from performance.growth_section import BASE, Curve, curve_of_json
from performance.machine import measured_on
from performance.table import quantity

_HEAD = Path(__file__).with_name("growth_page.md")


def page(table: dict[str, Any]) -> str:
    """Return the page of a table that the command `performance` wrote."""
    curves = [curve_of_json(stored) for stored in table["growth"]]
    parts = [
        _HEAD.read_text(encoding="utf-8").format(
            **vars(BASE), machine=measured_on(table["machine"])
        )
    ]
    for axis in dict.fromkeys(curve.axis for curve in curves):
        parts.append(_table(axis, [curve for curve in curves if curve.axis == axis]))
    return "\n".join(parts)


def _table(axis: str, curves: list[Curve]) -> str:
    points = [str(x) for x in curves[0].x]
    head = [LABELS[axis], *points, "exponent", "last", "bends at"]
    title = LABELS[axis][0].upper() + LABELS[axis][1:]
    rows = [head]
    for curve in curves:
        cells = [
            f"{quantity(s, 's')}<br>{quantity(m, 'B')}"
            for s, m in zip(curve.seconds, curve.memory, strict=True)
        ]
        error = "" if curve.law.error != curve.law.error else f" ± {curve.law.error:.2f}"
        bend = curve.bend()
        law = [f"{curve.law.exponent:.2f}{error}", f"{curve.law.last:.2f}"]
        rows.append([curve.form, *cells, *law, "" if bend is None else str(bend)])
    return f"## {title}\n\n{grid(rows)}\n"
