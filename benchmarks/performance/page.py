"""The tables of docs/performance.md and the page docs/growth.md, from the committed measurements.

python -m performance.page
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from results import between, grid

from performance import growth_page, systems
from performance.gpu import page as gpu_page
from performance.machine import measured_on
from performance.table import Group, Row, group_of_json, quantity

HERE = Path(__file__).parents[1]
TABLE, TWO_THREADS = HERE / "performance.json", HERE / "performance_2_threads.json"
ON_A_GPU = HERE / "performance_gpu.json"
DOCS = HERE.parent / "docs"

Grid = list[list[str]]

_SPEEDS = (  # what, words of the group's name, peer, ours, target
    ("whole network, forward", ("forward", "B=1"), systems.PEER, systems.COMPILED, "3"),
    ("the same, weights of 16 bits", ("forward", "B=1"), systems.PEER, systems.INT16, ""),
    ("the same, weights of 8 bits", ("forward", "B=1"), systems.PEER, systems.INT8, ""),
    ("the same of 4 images, float32", ("forward", "B=4"), systems.PEER, systems.COMPILED, ""),
    ("the same, weights of 8 bits", ("forward", "B=4"), systems.PEER, systems.INT8, ""),
    ("training step", ("training step", "B=1"), systems.PEER, systems.BY_EVENTS, "1.3"),
    ("the same of 4 images", ("training step", "B=4"), systems.PEER, systems.BY_EVENTS, "1.8"),
    ("the same, both in bf16", ("training step", "B=4"), systems.PEER_BF16, systems.BF16, ""),
)


class Measured:
    """Groups by their names."""

    def __init__(self, groups: Iterable[Group]) -> None:
        self._groups = list(groups)

    def of(self, section: str) -> list[Group]:
        """Return the groups of a section."""
        return [group for group in self._groups if group.section == section]

    def one(self, section: str, start: str = "", *words: str) -> Group:
        """Return the group of a section whose name has a start and, anywhere, some words.

        Raises:
            LookupError: None has, or more than one.
        """
        found = [
            g
            for g in self.of(section)
            if g.name.startswith(start) and all(w in g.name for w in words)
        ]
        if len(found) != 1:
            raise LookupError(f"{section}: {len(found)} groups with {start} {words}")
        return found[0]


def runtimes(measured: Measured) -> str:
    """Return the line that says which kernels and peers the integer network was measured with."""
    facts = measured.of("integer")[0].facts
    return f"Ours: {facts['weights']}, kernels {facts['kernels']}. Peers: {facts['peers']}."


def peers(measured: Measured) -> Grid:
    """Compare with SpikingJelly: the network, training steps, memory, neurons."""
    rows = [["", "SpikingJelly", "ours", "ratio", "target"]]
    for what, words, peer, own, target in _SPEEDS:
        group = measured.one("network", *words)
        rows.append([what, *_against(group, peer, own), target])
    kept = measured.one("memory", "training step", "B=1", "kept for backward")
    rows.append(
        ["kept for the backward pass", *_against(kept, systems.PEER, systems.BY_EVENTS), "2.5"]
    )
    for kind in ("LIF", "IF"):
        for task, aim in (("atan, forward + backward", "10"), ("inference", "")):
            group = measured.one("neuron", f"{kind}, {task}")
            rows.append(
                [f"{kind}, {task}, 8 MiB", *_against(group, systems.PEER, systems.NATIVE), aim]
            )
    return rows


def _against(group: Group, peer: str, own: str) -> list[str]:
    theirs, ours = group.rows[peer].median, group.rows[own].median
    how = own.removeprefix("ours ")
    shown = f"{quantity(ours, group.unit)}, {how}"
    return [quantity(theirs, group.unit), shown, f"**{theirs / ours:.2f}**"]


def operators(measured: Measured) -> Grid:
    """Say where a training step of four images spends its time."""
    spent = measured.one("network", "training step", "B=4").facts["seconds_by_operator"]
    rows = [["", "operators, share of the step"]]
    for way, seconds in spent.items():
        total = sum(seconds.values())
        parts = [f"`{name}` {s / total:.0%}" for name, s in seconds.items() if s >= total / 50]
        rows.append([f"{way}, {quantity(total, 's')}", ", ".join(parts)])
    return rows


def bandwidth(measured: Measured) -> Grid:
    """Compare the kernels of a neuron with plain loops over as many bytes."""
    group = measured.one("neuron", "", "bytes moved")
    speed, moved = group.facts["gigabytes_per_second"], group.facts["MiB_moved"]
    return [
        ["8 MiB of currents", "MiB moved", "time", "GB/s"],
        *(
            [name, f"{moved[name]:.0f}", quantity(row.median, "s"), f"{speed[name]:.1f}"]
            for name, row in group.rows.items()
        ),
    ]


def sampling(measured: Measured) -> Grid:
    """Compare plain and compiled pipelines."""
    rows = [["images per second, 8 images", "plain", "compiled", "ratio"]]
    for group in measured.of("sampling"):
        plain, fast = (group.facts["images_per_second"][f"ours {n}"] for n in ("plain", "compiled"))
        rows.append(
            [group.name.rsplit(",", 1)[0], f"{plain:.3g}", f"{fast:.3g}", f"{fast / plain:.2f}"]
        )
    return rows


def convolutions(measured: Measured) -> Grid:
    """Compare a convolution of spikes, dense and by events, by activity."""
    names = ("dense channels_last", "ours event-driven", "ours int16", "ours int8", "dense int8")
    heads = ("oneDNN", "by events", "16 bits", "8 bits", "oneDNN, 8 bits")
    rows = [["convolution", "activity", *heads]]
    for group in measured.of("convolution"):
        dense = group.rows[names[0]].median
        cells = [
            quantity(row.median, "s") + ("" if name == names[0] else f" ({dense / row.median:.1f})")
            if (row := group.rows.get(name))
            else "-"
            for name in names
        ]
        rows.append([group.name, f"{group.facts['fires_in_window']:.2f}", *cells])
    return rows


def integer(measured: Measured) -> Grid:
    """Compare the deployment form with runtimes of its ordinary counterpart."""
    groups = measured.of("integer")
    names = list(groups[0].rows)
    rows = [
        ["images", *names],
        *([_images(g), *map(_milliseconds, g.rows.values())] for g in groups),
    ]
    for name in ("ours counts", "ours delta, 20 calls"):
        for peer in ("OpenVINO int8", "ordinary, eager"):
            ratios = (f"{g.rows[peer].median / g.rows[name].median:.2f}" for g in groups)
            cells = dict.fromkeys(names, "") | {name: f"**{' / '.join(ratios)}**"}
            rows.append(
                [f"speed-up over {peer}, {' / '.join(map(_images, groups))}", *cells.values()]
            )
    return rows


def _images(group: Group) -> str:
    return group.name.removeprefix("a call of ").removesuffix(" images")


def _milliseconds(row: Row) -> str:
    return f"{1e3 * row.median:.3g}"


def training(measured: Measured) -> Grid:
    """Compare a step of the integer network with its counterpart's, and the trainer with a loop."""
    steps, trainer = measured.of("integer training")
    first = [
        [name, quantity(row.median, "s"), f"{row.ratio:.2f}"] for name, row in steps.rows.items()
    ]
    loop, whole = trainer.rows["bare loop"].median, trainer.rows["trainer"].median
    return [
        [f"{steps.name}", "time", "over the first"],
        *first,
        [
            f"images per second, bare loop: {1 / loop:.0f}; trainer: {1 / whole:.0f}",
            "",
            f"{loop / whole:.2f}",
        ],
    ]


def commands(measured: Measured) -> Grid:
    """Say what commands cost before their first network call."""
    group = measured.one("start")
    return [
        ["CPU seconds of a fresh process", "median", "least"],
        *([f"`{n}`", f"{row.median:.2f}", f"{row.minimum:.2f}"] for n, row in group.rows.items()),
    ]


def evaluation(measured: Measured) -> Grid:
    """Compare `evaluate` of the float network and of the deployed one."""
    group = measured.one("evaluation")
    names, parts = list(group.rows), group.facts["parts"]
    kinds = list(parts[names[0]])
    return [
        [f"CPU seconds, {group.name}", *names],
        ["the whole command", *(f"{row.median:.1f}" for row in group.rows.values())],
        *([f"... {kind}", *(f"{parts[name][kind]:.2f}" for name in names)] for kind in kinds),
    ]


TABLES: dict[str, Callable[[Measured], Grid]] = {
    "peers": peers,
    "operators": operators,
    "bandwidth": bandwidth,
    "sampling": sampling,
    "convolutions": convolutions,
    "integer": integer,
    "training": training,
    "commands": commands,
    "evaluation": evaluation,
}


def main() -> None:
    """Write the tables into the page, and the page of growth."""
    page = DOCS / "performance.md"
    text = page.read_text(encoding="utf-8")
    table, two, gpu = (json.loads(path.read_text()) for path in (TABLE, TWO_THREADS, ON_A_GPU))
    measured = Measured(map(group_of_json, table["groups"]))
    for name, rows in TABLES.items():
        text = between(text, name, grid(rows(measured)))
    text = between(
        text, "integer, two threads", grid(integer(Measured(map(group_of_json, two["groups"]))))
    )
    text = between(text, "runtimes", runtimes(measured))
    text = between(text, "machine", f"{measured_on(table['machine'])}.")
    text = between(text, "machine, two threads", f"{measured_on(two['machine'])}.")
    on_a_gpu = list(map(group_of_json, gpu["groups"]))
    text = between(text, "machine, GPU", f"{measured_on(gpu['machine'])}.")
    text = between(text, "neurons, GPU", grid(gpu_page.neurons(on_a_gpu)))
    text = between(text, "bandwidth, GPU", grid(gpu_page.bandwidth(on_a_gpu)))
    text = between(text, "training, GPU", grid(gpu_page.training(on_a_gpu)))
    page.write_text(text, encoding="utf-8")
    (DOCS / "growth.md").write_text(growth_page.page(table), encoding="utf-8")


if __name__ == "__main__":
    main()
