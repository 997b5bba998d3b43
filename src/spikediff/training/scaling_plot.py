"""The picture of what temporal scaling learned."""

import io
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from spikediff.whole import write_whole


def plot_temporal_scaling(factors: Mapping[str, Tensor], path: Path) -> Path:
    """Draw the factors p over the spiking steps: every layer's, and their mean.

    Args:
        factors: p [T] of every layer, as `scaling_factors` returns them; at least one layer.
        path: The PNG to write.

    Returns:
        The path.

    Reference: Cao et al., "Spiking diffusion models", IEEE TAI 2025, figure 6 (the mean rises
    with the step).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    p = torch.stack(list(factors.values())).float().cpu()  # [layers, T]
    steps = range(1, p.shape[1] + 1)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="spiking step n", ylabel="factor p[n] of the current")
    lines = axes.plot(steps, p.T.numpy(), color="0.75", linewidth=0.8)
    lines[0].set_label(f"each of {len(p)} layers")
    axes.axhline(1.0, color="0.4", linestyle=":", linewidth=1.0, label="before training")
    axes.plot(steps, p.mean(0).numpy(), color="C0", marker="o", label="mean over layers")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    drawn = io.BytesIO()
    FigureCanvasAgg(figure).print_png(drawn)
    write_whole(path, drawn.getvalue())
    return path
