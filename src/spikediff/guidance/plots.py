"""A picture of a guidance curve."""

import statistics
from pathlib import Path

from spikediff.guidance.search import NO_GUIDANCE, GuidanceCurve


def plot_curve(curve: GuidanceCurve, metric: str, path: Path) -> None:
    """Draw the metric over the threshold, and beside it the paired gain over threshold 1.

    Args:
        curve: Two or more repeats.
        metric: Its name, for the axis.
        path: The PNG; its folder is made.
    """
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
    errors = [2 * gain.standard_error for gain in gains]
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
