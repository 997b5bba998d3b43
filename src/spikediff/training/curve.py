"""The loss curve: a CSV that grows, and a picture of it."""

import csv
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import NamedTuple

from spikediff.errors import UserError, cut
from spikediff.reading import read_text


@dataclass(frozen=True)
class CurvePoint:
    """One row of the curve; averages are over the steps since the row before.

    Attributes:
        step: Optimizer steps done.
        loss: Mean loss.
        grad_norm: Mean norm of the gradients before clipping.
        lr: Learning rate of the last step.
        images_per_second: Training speed over all processes.
        terms: Mean of every term of the loss, where it has several, and of what is watched.
    """

    step: int
    loss: float
    grad_norm: float
    lr: float
    images_per_second: float
    terms: dict[str, float] = field(default_factory=dict)

    def row(self) -> dict[str, float]:
        """Return the row of the CSV: a column for every term, behind the others."""
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "terms"}
        return named | self.terms


_COLUMNS = [f.name for f in fields(CurvePoint) if f.name != "terms"]


class LossCurve:
    """The curve of a run, in `loss.csv` and `loss.png`.

    Args:
        folder: The run folder.
        after_step: Rows beyond this step are dropped: they belong to work that a killed run lost.
    """

    def __init__(self, folder: Path, after_step: int = 0) -> None:
        self.csv, self.png = folder / "loss.csv", folder / "loss.png"
        self.points = [p for p in read_curve(self.csv) if p.step <= after_step]
        self._rewrite()

    def _rewrite(self) -> None:
        with open(self.csv, "w", newline="", encoding="utf-8") as file:
            columns = list(self.points[0].row()) if self.points else _COLUMNS
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(point.row().values() for point in self.points)

    def append(self, point: CurvePoint) -> None:
        """Add a row."""
        self.points.append(point)
        if len(self.points) == 1:
            self._rewrite()  # the first row tells the terms, hence the columns
            return
        with open(self.csv, "a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(point.row().values())

    def draw(self) -> Path:
        """Draw the curve and its running mean; return the picture's path."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        steps, losses = [p.step for p in self.points], [p.loss for p in self.points]
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot(xlabel="optimizer step", ylabel="denoising loss", yscale="log")
        axes.plot(steps, losses, color="0.75", label="loss")
        axes.plot(steps, _running_mean(losses), color="C0", label="running mean")
        axes.legend()
        FigureCanvasAgg(figure).print_png(str(self.png))
        return self.png


class LossValues(NamedTuple):
    """The losses of one optimizer step.

    Attributes:
        terms: Terms of the loss by name; the loss is their sum.
        watched: Further numbers by name.
    """

    terms: dict[str, float]
    watched: dict[str, float]


class Averages:
    """Means over the steps since the last row of the curve.

    Args:
        batch_size: Images of a step, for the speed.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self._clear()

    def _clear(self) -> None:
        self._losses: list[LossValues] = []
        self._norms: list[float] = []
        self._since = time.perf_counter()

    def add(self, losses: LossValues, norm: float) -> None:
        """Enter a step."""
        self._losses.append(losses)
        self._norms.append(norm)

    def point(self, step: int, lr: float) -> CurvePoint:
        """Return the row of all steps since the last one, and begin anew."""
        count, seconds = len(self._losses), time.perf_counter() - self._since
        terms = _means([losses.terms for losses in self._losses])
        watched = _means([losses.watched for losses in self._losses])
        point = CurvePoint(
            step,
            sum(terms.values()),
            sum(self._norms) / count,
            lr,
            count * self.batch_size / seconds,
            (terms if len(terms) > 1 else {}) | watched,
        )
        self._clear()
        return point


def _means(values: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(value[name] for value in values) / len(values) for name in values[0]}


def read_curve(path: Path) -> list[CurvePoint]:
    """Return the rows of a curve's CSV; none where there is no file yet."""
    if not path.exists():
        return []
    try:
        rows = list(csv.DictReader(read_text(path).splitlines()))
        return [_point({key: float(value) for key, value in row.items()}) for row in rows]
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        if isinstance(error, UserError):
            raise
        reason = cut(str(error))
        raise UserError(f"{path}: is damaged ({reason}); remove the row, or the file") from error


def _point(row: dict[str, float]) -> CurvePoint:
    step, loss, grad_norm, lr, speed = (row.pop(name) for name in _COLUMNS)
    return CurvePoint(int(step), loss, grad_norm, lr, speed, terms=row)


def _running_mean(values: list[float], weight: float = 0.1) -> list[float]:
    means: list[float] = []
    for value in values:
        means.append(value if not means else means[-1] + weight * (value - means[-1]))
    return means
