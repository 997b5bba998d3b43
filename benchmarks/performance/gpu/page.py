"""The tables of docs/performance.md that `performance_gpu.json` makes."""

import json
import math
from collections.abc import Sequence

from performance.gpu.neuron_section import LARGE, SECTION
from performance.table import Group, Row, quantity

Grid = list[list[str]]

PEERS = ("SpikingJelly torch", "SpikingJelly compiled", "SpikingJelly triton")
OURS = ("ours reference", "ours triton")


def neurons(groups: Sequence[Group]) -> Grid:
    """Compare the implementations of a neuron; SpikingJelly's come from two processes."""
    cases: dict[str, dict[str, Row]] = {}
    for group in groups:
        if group.section == SECTION and group.name.endswith("forward + backward"):
            rows = cases.setdefault(group.name, {})
            rows |= {name: row for name, row in group.rows.items() if name not in rows}
    names = (*PEERS, *OURS)
    table = [["forward + backward", *names, "ratio to their fastest"]]
    for name, rows in cases.items():
        fastest = min(rows[peer].median for peer in PEERS if peer in rows)
        cells = (quantity(rows[n].median, "s") if n in rows else "-" for n in names)
        table.append([_case(name), *cells, f"**{fastest / rows[OURS[-1]].median:.2f}**"])
    return table


def _case(name: str) -> str:
    kind, _, dtype, shape = name.removesuffix(", forward + backward").split(", ", 3)
    values = math.prod(json.loads(shape))
    return f"{kind}, {dtype}, {values * (4 if dtype == 'float32' else 2) >> 20:,} MiB"


def bandwidth(groups: Sequence[Group]) -> Grid:
    """Compare the kernels of a neuron with plain loops over as many bytes."""
    found = [group for group in groups if group.name.endswith("bytes moved")]
    large = [group for group in found if str(list(LARGE)) in group.name]
    return [
        [f"GB/s, {math.prod(LARGE) / 1e6:.0f} million currents", *large[0].rows],
        *([group.name.split(", ")[2], *(f"{s:,.0f}" for s in _speeds(group))] for group in large),
    ]


def _speeds(group: Group) -> list[float]:
    speeds: dict[str, float] = group.facts["gigabytes_per_second"]
    return [speeds[name] for name in group.rows]


def training(groups: Sequence[Group]) -> Grid:
    """Compare a step of the integer network with its counterpart's, and the trainer with a loop."""
    rows = [["images per second", "ordinary (silu)", "integer", "time, integer over ordinary"]]
    steps = [group for group in groups if group.name.startswith("a step of")]
    for group in steps:
        if "images_per_second" in group.facts and "silu" in group.rows:
            speeds = group.facts["images_per_second"]
            ratio = group.rows["integer"].median / group.rows["silu"].median
            cells = [f"{speeds['silu']:,.0f}", f"{speeds['integer']:,.0f}", f"{ratio:.2f}"]
            rows.append([group.name.removeprefix("a step of "), *cells])
    return rows
