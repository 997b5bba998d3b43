"""The figures of headline.py: quality over energy, over time, over images seen."""

from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

from spikediff.cli.comparison import COLOURS, MARKERS


class Point(NamedTuple):
    """A model at a number of network calls."""

    group: str  # one line and one marker
    calls: int
    fad: float
    spread: float  # standard deviation over training seeds; 0 for one seed
    energy_uj: float  # per image
    seconds: float  # per image
    images: int  # seen in training


# Name of the figure -> label of its axis, quantity.
FIGURES: dict[str, tuple[str, Callable[[Point], float]]] = {
    "front_energy": ("energy per image [µJ], strict, 45 nm", lambda p: p.energy_uj),
    "front_time": ("time per image [ms], one CPU thread", lambda p: 1000 * p.seconds),
    "images_seen": ("images seen in training", lambda p: p.images),
}


def draw(
    points: list[Point], of: tuple[str, Callable[[Point], float]], floor: float, path: Path
) -> None:
    """Draw FAD over a quantity, a line per group, the network calls beside the points.

    Our system has one colour in all its forms, ordinary networks have another.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    label, quantity = of
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(point.group, []).append(point)
    with rc_context({"font.size": 8, "svg.hashsalt": "spikediff", "legend.fontsize": 7}):
        figure = Figure(figsize=(3.4, 3.2 + 0.13 * len(groups)), layout="constrained")
        axes: Any = figure.subplots()
        colours = dict(zip(dict.fromkeys(map(_family, groups)), cycle(COLOURS)))
        for (name, line), marker in zip(groups.items(), cycle(MARKERS)):
            colour = colours[_family(name)]
            ordered = sorted(line, key=lambda p: (quantity(p), p.calls))
            x, y = [quantity(p) for p in ordered], [p.fad for p in ordered]
            spread = [p.spread for p in ordered]
            look = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 0.8}
            axes.errorbar(x, y, spread, label=name, capsize=1.5, **look)
            for p in ordered:
                place = (quantity(p), p.fad)
                text = {"xytext": (3, 3), "textcoords": "offset points", "fontsize": 6}
                axes.annotate(str(p.calls), place, color=colour, **text)
        axes.axhline(floor, color="0.4", linestyle="--", linewidth=0.8, label="floor: real images")
        axes.set(xscale="log", yscale="log", xlabel=label, ylabel="FAD, published mode")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(color="0.9", linewidth=0.5)
        figure.legend(loc="outside lower center", ncols=1, frameon=False)
        figure.savefig(path, metadata={"Date": None})


def _family(group: str) -> str:
    """Return what has a colour: our system, ordinary networks, or another system."""
    return next((family for family in ("(ours)", "ordinary") if family in group), group)
