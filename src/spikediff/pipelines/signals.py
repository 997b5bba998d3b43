"""From a model's signals to what a caller asked for, and to a plot that a person looks at."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from spikediff.data import change_range
from spikediff.errors import UserError
from spikediff.finite import check_values
from spikediff.pipelines.pictures import as_array

_MOST_ROWS = 8


def signal_output(
    output_type: str, signal_range: Sequence[float] | None
) -> Callable[[Tensor], Any]:
    """Return what turns signals [B, C, L] of a model into an output of a pipeline.

    Nothing is clamped: a recording may leave the range, and so may what is generated.

    Args:
        output_type: "pt" or "np".
        signal_range: Values of the signal that the model sees as -1 and 1; None leaves them.

    Raises:
        UserError: The output type is another.

    Example:
        >>> import torch
        >>> signal_output("pt", (-60.0, 20.0))(torch.tensor([-1.0, 0.5, 2.0])).tolist()
        [-60.0, 0.0, 60.0]
    """
    if output_type not in ("pt", "np"):
        raise UserError(
            f"output_type {output_type!r}: the network makes signals, not pictures; "
            'give output_type="np" or "pt"'
        )

    def finish(sample: Tensor) -> Any:
        check_values(sample, "signals")
        if signal_range is not None:
            sample = change_range(sample, new=signal_range)
        return sample if output_type == "pt" else as_array(sample)

    return finish


def plot_signals(columns: Mapping[str, Tensor], unit: str = "") -> Image.Image:
    """Return lines, one signal below the other, in a column for every kind.

    Args:
        columns: Signals [N, C, L] by what they are; the first eight are shown.
        unit: Of the values.

    Example:
        >>> import torch
        >>> plot_signals({"noise": torch.randn(3, 1, 64)}).mode
        'RGB'
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = min(_MOST_ROWS, max(len(signals) for signals in columns.values()))
    figure = Figure(figsize=(4.5 * len(columns), 0.9 * rows + 0.8), layout="constrained")
    grid = figure.subplots(rows, len(columns), squeeze=False, sharex=True, sharey=True)
    for column, (name, signals) in enumerate(columns.items()):
        grid[0][column].set_title(name)
        grid[-1][column].set_xlabel("sample")
        for axes, signal in zip(grid[:, column], signals, strict=False):
            axes.plot(signal.T.numpy(), linewidth=0.9)
    figure.supylabel(unit)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
