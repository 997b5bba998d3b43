r"""Choose a guidance scale by repeated, paired and confirmed measurements.

Quality varies more with the seeds of the images than with guidance. So every scale
is measured on the same seeds and judged by the difference to scale 1 on each range of seeds,

    d_r = D_r(1) - D_r(k),    gain = mean_r d_r,    standard error = std_r d_r / sqrt(repeats)

(with the opposite sign if higher is better), which removes their common variation. The
best of many scales looks better than it is, because luck plays a part in the choice; therefore
a gain that exceeds two standard errors is measured again on fresh seeds.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from spikediff.errors import UserError
from spikediff.tables import rounded

Measure = Callable[[float, int], float]
"""Maps a scale and a repeat's number to a quality figure; equal repeats have equal seeds."""

NO_GUIDANCE = 1.0
_ERRORS = 2.0  # standard errors that a gain has to exceed


@dataclass(frozen=True)
class Gain:
    """A paired difference to scale 1, its mean over the repeats; positive is better."""

    mean: float
    standard_error: float

    @staticmethod
    def of(differences: Sequence[float]) -> "Gain":
        """Return the gain of two or more paired differences."""
        error = statistics.stdev(differences) / sqrt(len(differences))
        return Gain(statistics.fmean(differences), error)

    @property
    def exceeds_noise(self) -> bool:
        """Whether it is positive by more than two standard errors."""
        return self.mean > _ERRORS * self.standard_error


@dataclass(frozen=True)
class GuidanceCurve:
    """Quality by scale and repeat, including scale 1."""

    values: Mapping[float, tuple[float, ...]]
    lower_is_better: bool

    @property
    def repeats(self) -> int:
        """The number of measurements of every scale."""
        return len(self.values[NO_GUIDANCE])

    @property
    def best(self) -> float:
        """The scale, other than 1, of the largest mean gain."""
        others = [scale for scale in self.values if scale != NO_GUIDANCE]
        return max(others, key=lambda scale: self.gain(scale).mean)

    def gain(self, scale: float) -> Gain:
        """Return the gain of a scale over scale 1, repeat by repeat."""
        sign = 1.0 if self.lower_is_better else -1.0
        pairs = zip(self.values[NO_GUIDANCE], self.values[scale], strict=True)
        return Gain.of([sign * (without - guided) for without, guided in pairs])

    def content(self) -> list[dict[str, Any]]:
        """Return a row for every scale, for JSON; two or more repeats."""
        rows = ((scale, values, self.gain(scale)) for scale, values in sorted(self.values.items()))
        return [
            {
                "threshold": scale,
                "mean": rounded(statistics.fmean(values)),
                "std": rounded(statistics.stdev(values)),
                "gain": rounded(gain.mean),
                "gain_standard_error": rounded(gain.standard_error),
                "values": [rounded(value) for value in values],
            }
            for scale, values, gain in rows
        ]


@dataclass(frozen=True)
class GuidanceSearch:
    """Result of a search.

    Attributes:
        curve: Every scale on the seeds of the search; None if the budget ended before two
            repeats were complete.
        confirmation: The best scale and 1 on fresh seeds; None without a gain to confirm or
            without budget left.
        within_budget: Whether everything was measured.
    """

    curve: GuidanceCurve | None
    confirmation: GuidanceCurve | None
    within_budget: bool

    @property
    def verdict(self) -> str:
        """One of "confirmed gain", "within noise", "no gain", "not confirmed", "not measured"."""
        if self.curve is None:
            return "not measured"
        found = self.curve.gain(self.curve.best)
        if found.mean <= 0:
            return "no gain"
        if not found.exceeds_noise:
            return "within noise"
        if self.confirmation is None:
            return "not confirmed"
        fresh = self.confirmation.gain(self.curve.best)
        return "confirmed gain" if fresh.exceeds_noise else "within noise"

    @property
    def recommended(self) -> float:
        """The scale to use: the best one if its gain is confirmed, else 1."""
        if self.curve is None or self.verdict != "confirmed gain":
            return NO_GUIDANCE
        return self.curve.best

    def content(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        return {
            "verdict": self.verdict,
            "recommended": self.recommended,
            "best": None if self.curve is None else self.curve.best,
            "within_budget": self.within_budget,
            "curve": [] if self.curve is None else self.curve.content(),
            "confirmation": [] if self.confirmation is None else self.confirmation.content(),
        }


class Budget:
    """Limits of a search: seconds from now on, measurements; None for no limit."""

    def __init__(self, seconds: float | None = None, measurements: int | None = None) -> None:
        self._until = None if seconds is None else time.monotonic() + seconds
        self._left = measurements

    def spend(self) -> bool:
        """Return whether one more measurement may begin, and count it."""
        if self._left is not None:
            self._left -= 1
        in_time = self._until is None or time.monotonic() < self._until
        return in_time and (self._left is None or self._left >= 0)


def search_scale(
    measure: Measure,
    scales: Iterable[float],
    repeats: int = 3,
    *,
    lower_is_better: bool = True,
    budget: Budget | None = None,
) -> GuidanceSearch:
    """Measure a grid of scales, and the best one again on fresh seeds if it seems to gain.

    It proceeds repeat by repeat, so that a budget leaves complete repeats of all scales; an
    incomplete repeat does not count.

    Args:
        measure: Called as `measure(scale, repeat)`; must return equal numbers for equal
            arguments. The first `repeats` repeats are for the search, the next `repeats` for the
            confirmation.
        scales: The grid; 1 is added.
        repeats: Ranges of seeds, at least 2.
        lower_is_better: Whether the metric is a distance.
        budget: Limits; None for no limits.

    Returns:
        The curve, the confirmation and the verdict.

    Raises:
        UserError: Fewer than two repeats, or no scale but 1.
    """
    grid = [NO_GUIDANCE, *dict.fromkeys(k for k in scales if k != NO_GUIDANCE)]
    if repeats < 2:
        raise UserError(f"guidance: {repeats} repeats give no error bars; use 2 or more")
    if len(grid) < 2:
        raise UserError("guidance: give thresholds other than 1 to compare with it")
    budget = budget or Budget()

    def curve_of(scales: Sequence[float], repeats: range) -> tuple[GuidanceCurve | None, bool]:
        """Return the curve of the complete repeats, if they are two, and whether all are."""
        columns: list[list[float]] = []
        for repeat in repeats:
            column = [measure(scale, repeat) for scale in scales if budget.spend()]
            if len(column) < len(scales):
                break
            columns.append(column)
        if len(columns) < 2:
            return None, False
        rows = zip(*columns, strict=True)  # a row for each scale
        curve = GuidanceCurve(dict(zip(scales, rows, strict=True)), lower_is_better)
        return curve, len(columns) == len(repeats)

    curve, complete = curve_of(grid, range(repeats))
    if curve is None or not complete or not curve.gain(curve.best).exceeds_noise:
        return GuidanceSearch(curve, None, complete)
    confirmation, complete = curve_of([NO_GUIDANCE, curve.best], range(repeats, 2 * repeats))
    return GuidanceSearch(curve, confirmation if complete else None, complete)


def plot_curve(curve: GuidanceCurve, metric: str, path: Path) -> None:
    """Plot the metric over the threshold, and the paired gain over threshold 1."""
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    scales = sorted(curve.values)
    values = [curve.values[scale] for scale in scales]
    gains = [curve.gain(scale) for scale in scales]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    means, stds = map(statistics.fmean, values), map(statistics.stdev, values)
    left.errorbar(scales, [*means], [*stds], marker="o", capsize=3)
    left.set_title(f"mean ± std over {curve.repeats} ranges of seeds", fontsize=9)
    left.set_ylabel(metric)
    errors = [_ERRORS * gain.standard_error for gain in gains]
    right.errorbar(scales, [gain.mean for gain in gains], errors, marker="o", capsize=3)
    right.axhline(0, color="0.6", linewidth=1)
    right.set_title("± 2 standard errors, same seeds", fontsize=9)
    right.set_ylabel("gain over no guidance")
    for axes in (left, right):
        axes.axvline(NO_GUIDANCE, color="0.6", linewidth=1, linestyle=":")
        axes.set_xlabel("threshold, times the trained one")
        axes.locator_params(axis="x", nbins=5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
