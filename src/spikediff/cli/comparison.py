"""Models side by side: a table for a terminal, Markdown or LaTeX, and a figure."""

import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

from spikediff.cli.outputs import FIGURE_FORMATS, check_file, counted

_WIDTH, _LABEL, _CELL = 80, 24, 13  # columns of a terminal: 24 + 4 * (1 + 13) = 80
_SIDE_BY_SIDE = (_WIDTH - _LABEL) // (_CELL + 1)

# Okabe and Ito's colours for the colour-blind, without yellow, which is too pale on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = "osD^vP*X"  # 8 of them and 7 colours: 56 models differ


@dataclass(frozen=True)
class ComparedModel:
    """The measurements of one model."""

    name: str  # title of its column
    source: str  # as typed
    options: dict[str, Any]  # how it ran: steps, scheduler, execution, threshold
    network: str  # the classes of its networks
    network_calls: int  # per image
    spiking_steps: int | None  # T; None without neurons
    parameters: int
    bytes: int  # of weights and buffers, as loaded
    seconds_per_image: float  # of one thread, compiled if that gives the same bits
    spikes_per_synapse: float | None = None  # T x rate
    spikes_per_synapse_by_changes: float | None = None  # None if the network cannot
    # Per image, by the cost table: "ordinary" (the counterpart, or the model itself if it has no
    # neurons), "spiking", "spiking_by_changes".
    energy_pj: dict[str, float] = field(default_factory=dict)
    # With integers and 8-bit weights: "quantised" (the counterpart), "spiking",
    # "spiking_by_changes".
    energy_whole_pj: dict[str, float] = field(default_factory=dict)
    activation_bits: int | None = None  # of the quantised counterpart
    quality: dict[str, Any] | None = None  # as of `spikediff evaluate --json`
    quality_left_out: str | None = None  # why it was not measured

    @property
    def own_energy_pj(self) -> float:
        """The energy per image of the model itself."""
        return self.energy_pj.get("spiking", self.energy_pj.get("ordinary", 0.0))

    def metric(self, name: str) -> dict[str, float | None] | None:
        """Return mean and standard deviation of a metric; None if it was not measured."""
        found: dict[str, Any] | None = (self.quality or {"metrics": {}})["metrics"].get(name)
        return found

    def floor(self, name: str) -> float | None:
        """Return a metric of real images; None if it was not measured."""
        found: float | None = (self.quality or {"floor": {}})["floor"].get(name)
        return found


class _Row(NamedTuple):
    """One quantity of all models."""

    group: str
    label: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class ModelComparison:
    """Models side by side."""

    models: tuple[ComparedModel, ...]
    costs: str  # name of the cost table
    num_images: int  # whose energy and time were measured

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return {
            "costs": self.costs,
            "num_images": self.num_images,
            "models": [asdict(model) for model in self.models],
            "notes": list(self.notes),
        }

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of the table: Frechet distances, or all if there are none."""
        found = [name for model in self.models for name in (model.quality or {}).get("metrics", ())]
        frechet = [name for name in found if name.split("/")[-1] == "frechet"]
        return tuple(dict.fromkeys(frechet or found))

    @property
    def notes(self) -> tuple[str, ...]:
        """The conditions of the numbers, a line each."""
        measured = [model.quality for model in self.models if model.quality is not None]
        notes = [_conditions(quality) for quality in measured]
        told = {model.name: (model.quality or {}).get("notes", ()) for model in self.models}
        for note in dict.fromkeys(note for found in told.values() for note in found):
            named = [name for name, found in told.items() if note in found]
            notes.append(note if len(named) == len(measured) else f"{', '.join(named)}: {note}")
        if len({quality["dataset"] for quality in measured}) > 1:
            notes.append("quality figures for different data sets are not comparable")
        if len({quality["counts"]["judged"] for quality in measured}) > 1:
            notes.append("quality figures for different numbers of images are not comparable")
        for model in self.models:
            if model.quality_left_out is not None:
                notes.append(f"{model.name}: quality not measured ({model.quality_left_out})")
        images = counted(self.num_images, "image")
        notes.append(f"energy: per image, strict accounting, arithmetic alone, of {images}")
        bits = sorted({m.activation_bits for m in self.models if m.activation_bits is not None})
        if bits:
            widths = ", ".join(map(str, bits))
            notes.append(
                f"quantised: the ordinary counterpart with activations of {widths} bits, as many "
                "as the spikes carry"
            )
        notes.append(
            f"seconds: CPU time of one thread, {images} at once, compiled if "
            "that gives the same bits"
        )
        return tuple(dict.fromkeys(notes))

    def table(self) -> str:
        """Return the table for a terminal of 80 columns, four models side by side."""
        rows, parts = self._rows(), []
        for first in range(0, len(self.models), _SIDE_BY_SIDE):
            part = slice(first, first + _SIDE_BY_SIDE)
            lines = list(_header([model.name for model in self.models[part]]))
            for group, row in _grouped(rows):
                lines.append(group if row is None else _line(row.label, row.cells[part]))
            parts.append("\n".join(lines))
        wrapped = [textwrap.fill(n, _WIDTH, subsequent_indent="  ") for n in self.notes]
        return "\n\n".join([*parts, "\n".join(wrapped)])

    def markdown(self) -> str:
        """Return the table as Markdown, with its notes."""
        names = [_pipes(model.name) for model in self.models]
        lines = [_bars("", names), _bars("---", ["---:"] * len(names))]
        for row in self._rows():
            label = ", ".join(filter(None, (row.group, row.label.strip())))
            lines.append(_bars(_pipes(label), row.cells))
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes)])

    def _repr_markdown_(self) -> str:
        return self.markdown()

    def latex(self) -> str:
        """Return the table as a LaTeX `tabular` that needs the package booktabs."""
        count = len(self.models)
        names = [_latex(model.name) for model in self.models]
        lines = [*(f"% {note}" for note in self.notes), rf"\begin{{tabular}}{{l{'r' * count}}}"]
        lines += [r"\toprule", f" & {' & '.join(names)} \\\\", r"\midrule"]
        for group, row in _grouped(self._rows()):
            if row is None:
                lines.append(rf"\multicolumn{{{count + 1}}}{{l}}{{\emph{{{_latex(group)}}}}} \\")
                continue
            indent = r"\quad " if row.group else ""
            cells = " & ".join(map(_latex, row.cells))
            lines.append(f"{indent}{_latex(row.label.strip())} & {cells} \\\\")
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])

    def plot(self, path: str | Path) -> None:
        """Plot quality, or time without quality, against energy, a marker per model.

        The metric is the first of the table, a dashed line its floor; hollow markers show the
        energy by changes. The figure has the width of a column of text; it is .svg, .pdf or .png.
        """
        from matplotlib import rc_context

        from spikediff.energy.plots import save_figure

        path = Path(path)
        check_file(path, "figure", FIGURE_FORMATS)
        with rc_context({"font.size": 8, "axes.linewidth": 0.6, "legend.fontsize": 7}):
            save_figure(self._drawn(), path, dpi=300)

    def _drawn(self) -> Any:
        from spikediff.inspection.plots import new_figure

        metric = next(iter(self.metrics), None)
        figure = new_figure(3.4, 2.5 + 0.15 * len(self.models))  # inches: a column is 3.3 to 3.5
        figure.set_layout_engine("constrained")
        axes = figure.subplots()
        for model, colour, marker in zip(self.models, cycle(COLOURS), cycle(MARKERS)):
            _mark(axes, model, metric, colour, marker)
        floors = {model.floor(metric) for model in self.models} - {None} if metric else set()
        for i, floor in enumerate(sorted(floors)):  # type: ignore[type-var]
            label = None if i else "floor: real images"
            axes.axhline(floor, color="0.4", linestyle="--", linewidth=0.8, label=label)
        axes.set_xscale("log")
        hollow = any("spiking_by_changes" in model.energy_pj for model in self.models)
        words = "; hollow: by changes" if hollow else ""
        axes.set_xlabel(f"energy per image [µJ], {Path(self.costs).stem}{words}")
        axes.set_ylabel(metric or "seconds per image, one thread")
        axes.set_ylim(bottom=0)
        axes.grid(color="0.9", linewidth=0.5)
        figure.legend(loc="outside lower center", ncols=1, frameon=False)
        return figure

    def _rows(self) -> list[_Row]:
        """Return the rows that are not empty."""
        last: dict[str, Callable[[ComparedModel], str]] = {
            "T x rate": lambda m: _number(m.spikes_per_synapse, "{:.3f}"),
            "T x rate, by changes": lambda m: _number(m.spikes_per_synapse_by_changes, "{:.3f}"),
            "seconds per image": lambda m: _number(m.seconds_per_image, "{:.3g}"),
            "parameters": lambda m: _count(m.parameters),
            "size of weights, bytes": lambda m: _count(m.bytes),
        }
        first: dict[str, Callable[[ComparedModel], str]] = {
            "network calls per image": lambda m: f"{m.network_calls:,}",
            "spiking steps T": lambda m: _number(m.spiking_steps, "{}"),
        }
        middle = (*self._quality_rows(), *self._energy_rows())
        rows = (*self._plain(first), *middle, *self._plain(last))
        return [row for row in rows if set(row.cells) != {"-"}]

    def _plain(self, columns: dict[str, Callable[[ComparedModel], str]]) -> Iterator[_Row]:
        for label, cell in columns.items():
            yield _Row("", label, tuple(map(cell, self.models)))

    def _quality_rows(self) -> Iterator[_Row]:
        low = all(name.endswith("/frechet") for name in self.metrics)
        group = "Frechet distance, lower is better" if low else "quality"
        for name in self.metrics:
            label = name.removesuffix("/frechet")
            found = [model.metric(name) or {} for model in self.models]
            means = tuple(_number(each.get("mean"), "{:.4g}") for each in found)
            spreads = tuple(_number(each.get("std"), "{:.2g}") for each in found)
            yield _Row(group, f" {label}", means)
            yield _Row(group, "  standard deviation", spreads)
            floors = tuple(_number(m.floor(name), "{:.4g}") for m in self.models)
            yield _Row(group, "  floor of real images", floors)

    def _energy_rows(self) -> Iterator[_Row]:
        formats: dict[str, Callable[[ComparedModel], dict[str, float]]] = {
            f"uJ per image, {Path(self.costs).stem}": lambda m: m.energy_pj,
            "uJ per image, 8-bit weights": lambda m: m.energy_whole_pj,
        }
        labels = {
            "ordinary": " ordinary network",
            "quantised": " quantised network",
            "spiking": " spiking",
            "spiking_by_changes": " spiking, by changes",
        }
        for group, energies in formats.items():
            for key, label in labels.items():
                cells = (_microjoule(energies(m).get(key)) for m in self.models)
                yield _Row(group, label, tuple(cells))


def _conditions(quality: dict[str, Any]) -> str:
    counts, name = quality["counts"], quality["protocol"]["name"]
    times = f" x {counts['repeats']}" if counts["repeats"] > 1 else ""
    return (
        f"quality: protocol {name}, {counts['judged']:,} images{times} against "
        f"{counts['reference']:,} of {quality['dataset']}/{quality['reference']['split']}, floor "
        f"of {counts['floor']:,} real images"
    )


def _mark(axes: Any, model: ComparedModel, metric: str | None, colour: str, marker: str) -> None:
    """Plot a model, if measured: its energy, and by changes as a hollow marker."""
    value = model.metric(metric) if metric else {"mean": model.seconds_per_image, "std": None}
    if value is None or not model.own_energy_pj:
        return
    by_changes = model.energy_pj.get("spiking_by_changes")
    energies = [pj / 1e6 for pj in (model.own_energy_pj, by_changes) if pj]
    heights = [value["mean"]] * len(energies)
    look = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 0.8}
    axes.plot(energies, heights, **look, markerfacecolor="white", zorder=3)
    axes.plot(energies[:1], heights[:1], **look, linestyle="none", label=model.name, zorder=4)
    if value["std"]:
        axes.errorbar(energies[0], value["mean"], value["std"], color=colour, linewidth=0.8)


def _header(names: Sequence[str]) -> Iterator[str]:
    """Return the lines of titles; a long title is wrapped at an @ or comma."""
    pieces = [re.split("(?=@)|(?<=,)", name) for name in names]
    cut = [[p for piece in each for p in re.findall(f".{{1,{_CELL}}}", piece)] for each in pieces]
    for i in range(max(map(len, cut), default=0)):
        yield _line("", [parts[i] if i < len(parts) else "" for parts in cut])


def _line(label: str, cells: Sequence[str]) -> str:
    start = f"{label:<{_LABEL}}" if len(label) <= _LABEL else f"{label}\n{'':<{_LABEL}}"
    return (start + "".join(f" {cell:>{_CELL}}" for cell in cells)).rstrip()


def _grouped(rows: Sequence[_Row]) -> Iterator[tuple[str, _Row | None]]:
    """Yield the rows, and before the first row of a group its title."""
    group = ""
    for row in rows:
        if row.group and row.group != group:
            yield row.group, None
        group = row.group
        yield group, row


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _count(number: int) -> str:
    return f"{number:,}" if number < 10**10 else f"{number:.3e}"  # the width of a cell


def _microjoule(pj: float | None) -> str:
    if pj is None:
        return "-"
    return _count(round(pj / 1e6)) if pj >= 1e9 else f"{pj / 1e6:.4g}"


def _bars(first: str, cells: Sequence[str]) -> str:
    return f"| {' | '.join([first, *cells])} |"


def _pipes(text: str) -> str:
    return text.replace("|", r"\|")


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "uJ per": r"$\mu$J per",
    "T x rate": r"$T \times$ rate",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}
_SPECIAL = re.compile("|".join(map(re.escape, _LATEX)))


def _latex(text: str) -> str:
    return _SPECIAL.sub(lambda found: _LATEX[found[0]], text)
