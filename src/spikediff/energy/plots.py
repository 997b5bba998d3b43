"""Plots of reports: firing rates by layer and denoising step, energy by part, and a comparison.

The suffix of the file selects the format: .png, .svg or .pdf.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spikediff.energy.report import EnergyReport
from spikediff.errors import UserError

_MICROJOULE = 1e6  # picojoules


def plot_firing_rates(report: EnergyReport, path: Path) -> None:
    """Plot the firing rates of all layers of neurons over the denoising steps as a map."""
    neurons = [cell for cell in report.cells if cell.neuron_updates]
    if not neurons:
        raise UserError("no layer of neurons was observed: there is no firing rate to draw")
    layers = list(dict.fromkeys(cell.layer for cell in neurons))
    rates = [[float("nan")] * len(report.timesteps) for _ in layers]
    for cell in neurons:
        rates[layers.index(cell.layer)][cell.step] = 100 * cell.rate
    figure, axes = _figure(height=2 + 0.16 * len(layers))
    image = axes.imshow(rates, aspect="auto", cmap="viridis", vmin=0, interpolation="nearest")
    axes.set_yticks(range(len(layers)), layers, fontsize=6)
    axes.set_xlabel("denoising step (noise on the left, image on the right)")
    figure.colorbar(image, label="neurons that fire per spiking step [%]")
    save_figure(figure, path)


def plot_parts(report: EnergyReport, path: Path) -> None:
    """Plot the energy per image of every part of the model, split into MACs and ACs."""
    bars = {part: (report, cell.macs, cell.acs) for part, cell in report.parts.items()}
    _draw_bars(bars, f"{report.accounting} accounting, {report.costs.name}", path)


def plot_comparison(reports: Mapping[str, EnergyReport], path: Path) -> None:
    """Plot the energy per image of several reports side by side, split into MACs and ACs."""
    bars = {name: (report, report.macs, report.acs) for name, report in reports.items()}
    _draw_bars(bars, ", ".join(sorted({r.costs.name for r in reports.values()})), path)


def _draw_bars(bars: Mapping[str, tuple[EnergyReport, int, int]], title: str, path: Path) -> None:
    """Plot the energy of MACs and ACs of every name as stacked bars."""
    macs = [r.energy_of(macs, 0) / r.images / _MICROJOULE for r, macs, _ in bars.values()]
    acs = [r.energy_of(0, acs) / r.images / _MICROJOULE for r, _, acs in bars.values()]
    figure, axes = _figure()
    axes.bar(list(bars), macs, label="multiply-accumulates", color="#b2182b")
    axes.bar(list(bars), acs, bottom=macs, label="accumulates", color="#2166ac")
    axes.set_ylim(0, 1.08 * max((m + a for m, a in zip(macs, acs, strict=True)), default=1.0))
    axes.set_ylabel("energy per image [µJ]")
    axes.set_title(title, fontsize=9)
    axes.tick_params(axis="x", labelrotation=15, labelsize=8)
    axes.legend()
    save_figure(figure, path)


def _figure(height: float = 4.0) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    figure = Figure(figsize=(8, height), layout="constrained")
    return figure, figure.subplots()


def save_figure(figure: Any, path: Path, dpi: int = 110) -> None:
    """Write a figure in the format of the file's suffix; equal figures give equal files."""
    from matplotlib import rc_context

    path.parent.mkdir(parents=True, exist_ok=True)
    without_date = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with rc_context({"svg.hashsalt": "spikediff", "pdf.fonttype": 42}):
        figure.savefig(path, dpi=dpi, metadata=without_date.get(path.suffix.lower()))
