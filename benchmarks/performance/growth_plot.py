"""The picture of growth: one panel an axis, both scales logarithmic, the fits as lines."""

from collections.abc import Sequence
from pathlib import Path

from performance.growth_section import FORMS, Curve

LABELS = {
    "processes": "processes",
    "T": "spiking steps T",
    "D": "largest count D",
    "batch": "images in the batch",
    "resolution": "pixels a side",
    "width": "channels of the first level",
    "steps": "network calls",
    "threads": "threads",
}


def plot_growth(curves: Sequence[Curve], path: Path) -> Path:
    """Draw the curves and write a PNG.

    Args:
        curves: At least one.
        path: The PNG to write.

    Returns:
        The path.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator

    axes_names = list(dict.fromkeys(curve.axis for curve in curves))
    rows = -(-len(axes_names) // 4)
    figure = Figure(figsize=(12, 3.2 * rows), layout="constrained")
    panels = figure.subplots(rows, 4, squeeze=False).flatten()
    for empty in panels[len(axes_names) :]:
        empty.set_axis_off()
    for panel, name in zip(panels, axes_names, strict=False):
        for curve in (c for c in curves if c.axis == name):
            colour, law = f"C{FORMS.index(curve.form)}", curve.law
            milliseconds = [1e3 * s for s in curve.seconds]
            fitted = [1e3 * law.factor * x**law.exponent for x in curve.x]
            panel.plot(curve.x, milliseconds, "o", color=colour)
            panel.plot(curve.x, fitted, color=colour, label=f"{curve.form}: {law.exponent:.2f}")
        panel.set(xscale="log", yscale="log", xlabel=LABELS[name])
        panel.set_xticks(curve.x, [str(x) for x in curve.x])
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.minorticks_off()
        panel.legend(title="exponent", fontsize="x-small")
    panels[0].set_ylabel("time [ms]")
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))
    return path
