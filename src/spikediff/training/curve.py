"""The loss curve of a run, as CSV and plot, and a plot of the temporal scaling factors."""

import csv
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikediff.errors import UserError, cut
from spikediff.files.reading import read_text
from spikediff.files.writing import write_if_changed, write_whole


class LossCurve:
    """The curve of a run, in `loss.csv` and `loss.png`.

    Args:
        folder: The run folder.
        after_step: Drop rows after this step, because a killed run lost that work.
        with_last: Whether to keep the row of this step; False if it ended a shorter run, because
            the next row will average over its steps too.
    """

    def __init__(self, folder: Path, after_step: int = 0, with_last: bool = True) -> None:
        self.csv, self.png = folder / "loss.csv", folder / "loss.png"
        last = after_step if with_last else after_step - 1
        self.points = [p for p in read_curve(self.csv) if p.step <= last]
        self._rewrite()

    def _rewrite(self) -> None:
        file = io.StringIO(newline="")
        writer = csv.writer(file)
        writer.writerow(list(self.points[0].row()) if self.points else _COLUMNS)
        writer.writerows(point.row().values() for point in self.points)
        write_if_changed(self.csv, file.getvalue())

    def append(self, point: "CurvePoint") -> None:
        """Add a row."""
        self.points.append(point)
        if len(self.points) == 1:
            self._rewrite()  # the terms of the first row define the columns
            return
        with open(self.csv, "a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(point.row().values())

    def draw(self) -> None:
        """Draw the curve and its running mean."""
        figure, axes = _axes((7, 4), xlabel="optimizer step", ylabel="loss", yscale="log")
        steps, losses = [p.step for p in self.points], [p.loss for p in self.points]
        axes.plot(steps, losses, color="0.75", label="loss")
        axes.plot(steps, running_means(losses), color="C0", label="running mean")
        _save(figure, axes, self.png)


def running_means(values: Sequence[float], rate: float = 0.1) -> list[float]:
    """Return exponential running means, without extra weight on the first values.

    Example:
        >>> running_means([2.0, 2.0]), round(running_means([9.0, 1.0])[-1], 2)
        ([2.0, 2.0], 4.79)
    """
    means: list[float] = []
    total = weights = 0.0
    for value in values:
        total = (1 - rate) * total + value
        weights = (1 - rate) * weights + 1
        means.append(total / weights)
    return means


@dataclass(frozen=True)
class CurvePoint:
    """One row of the curve, averaged over the steps since the previous row."""

    step: int  # optimizer steps done
    loss: float
    grad_norm: float  # before clipping
    lr: float  # of the last step
    images_per_second: float  # over all processes
    # Means of the terms of the loss, if it has several, and of the watched values.
    terms: dict[str, float] = field(default_factory=dict)

    def row(self) -> dict[str, float]:
        """Return the CSV row; the terms come last, one column each."""
        return {name: getattr(self, name) for name in _COLUMNS} | self.terms


_COLUMNS = [f.name for f in fields(CurvePoint) if f.name != "terms"]


def read_curve(path: Path) -> list[CurvePoint]:
    """Return the rows of a curve's CSV; none if there is no file yet."""
    if not path.exists():
        return []
    try:
        text = read_text(path)
        whole = text[: text.rfind("\n") + 1]  # the last row may not be written completely yet
        rows = list(csv.DictReader(whole.splitlines()))
        return [_point({key: float(value) for key, value in row.items()}) for row in rows]
    except UserError:
        raise
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        reason = cut(str(error))
        raise UserError(f"{path}: is damaged ({reason}); remove the row, or the file") from error


def _point(row: dict[str, float]) -> CurvePoint:
    step, loss, grad_norm, lr, speed = (row.pop(name) for name in _COLUMNS)
    return CurvePoint(int(step), loss, grad_norm, lr, speed, terms=row)


class Averages:
    """Means over the steps since the last row of the curve.

    `since_last_row` is the `state` of a stopped run.
    """

    def __init__(self, batch_size: int, since_last_row: Mapping[str, Any] | None = None) -> None:
        self.batch_size = batch_size
        self._sums: dict[str, Any] = dict(since_last_row or {})
        self.restart_clock()

    def restart_clock(self) -> None:
        """Restart the measurement of speed."""
        self._timed, self._since = 0, time.perf_counter()

    def add(self, terms: Mapping[str, float], watched: Mapping[str, float], norm: float) -> None:
        """Add a step: the terms of its loss, watched values, and the norm of its gradients."""
        before = self._sums
        self._sums = {
            "steps": before.get("steps", 0) + 1,
            "grad_norm": before.get("grad_norm", 0.0) + norm,
            "terms": _plus(before.get("terms", {}), terms),
            "watched": _plus(before.get("watched", {}), watched),
        }
        self._timed += 1

    def state(self) -> dict[str, Any]:
        """Return the sums over the steps since the last row, as JSON."""
        return self._sums

    def point(self, step: int, lr: float, close: bool = True) -> CurvePoint:
        """Return the row of all steps since the previous row.

        The next row starts here, unless `close` is False because the run ends between two rows.
        """
        seconds = time.perf_counter() - self._since
        count = self._sums["steps"]
        terms, watched = (
            {name: value / count for name, value in self._sums[kind].items()}
            for kind in ("terms", "watched")
        )
        point = CurvePoint(
            step,
            sum(terms.values()),
            self._sums["grad_norm"] / count,
            lr,
            self._timed * self.batch_size / seconds,
            (terms if len(terms) > 1 else {}) | watched,
        )
        if close:
            self._sums = {}
            self.restart_clock()
        return point


def _plus(sums: Mapping[str, float], values: Mapping[str, float]) -> dict[str, float]:
    return {name: sums.get(name, 0.0) + value for name, value in values.items()}


def plot_temporal_scaling(factors: Mapping[str, Tensor], path: Path) -> None:
    """Plot the factors p [T] of one or more layers over the spiking steps, and their mean.

    Reference: Cao et al., "Spiking diffusion models", IEEE TAI 2025, figure 6 (the mean rises
    with the step).
    """
    from matplotlib.ticker import MaxNLocator

    p = torch.stack(list(factors.values())).float().cpu()  # [layers, T]
    steps = range(1, p.shape[1] + 1)
    figure, axes = _axes((6, 4), xlabel="spiking step n", ylabel="factor p[n] of the current")
    lines = axes.plot(steps, p.T.numpy(), color="0.75", linewidth=0.8)
    lines[0].set_label(f"each of {len(p)} layers")
    axes.axhline(1.0, color="0.4", linestyle=":", linewidth=1.0, label="before training")
    axes.plot(steps, p.mean(0).numpy(), color="C0", marker="o", label="mean over layers")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _save(figure, axes, path)


def _axes(size: tuple[int, int], **labels: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.add_subplot(**labels)


def _save(figure: Any, axes: Any, path: Path) -> None:
    axes.legend()
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    write_whole(path, drawn.getvalue())
