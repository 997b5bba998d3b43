"""A spiking network that generates what a neuron does: its membrane potential, in time.

    python examples/signals.py [RUN]

RUN is trained where it is not there yet (recipes/sddpm/membrane.yaml; by default in
runs/sddpm-membrane). Then as many windows are generated as are drawn from the recording's held-out
time, and both are compared. A distance says little alone: beside it stands the floor, the distance
between held-out windows and windows of the training time, which both are real.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from spikediff.cli import main as spikediff
from spikediff.data import load_signals
from spikediff.training.trained import load_trained

COUNT = 256  # windows of every kind
SAMPLE_MS = 0.5
FIRES_MV = -20.0  # an action potential crosses it upwards

Array = NDArray[np.float64]


def drawn(split: str, length: int) -> Array:
    """Draw windows of the recording [N, L], in mV."""
    windows = load_signals("membrane", split, length=length)
    chosen = np.random.default_rng(0).choice(len(windows), COUNT, replace=False)
    return np.stack([windows[int(i)][0][0].numpy() for i in chosen]).astype(np.float64)


def generated(run: Path) -> Array:
    """Generate windows of the seeds 0, 1, 2, ... [N, L], in mV."""
    pipe = load_trained(run)
    pipe.set_progress_bar_config(disable=True)
    parts = [
        pipe(seeds=range(first, first + 32), num_inference_steps=25, output_type="np").images
        for first in range(0, COUNT, 32)
    ]
    return np.concatenate(parts)[:, 0].astype(np.float64)


def spectrum(windows: Array) -> Array:
    """Return the mean power spectral density in dB, Hann window [L/2]; the mean is taken out."""
    centred = windows - windows.mean(1, keepdims=True)
    power = np.abs(np.fft.rfft(centred * np.hanning(windows.shape[1]), axis=1)) ** 2
    return 10 * np.log10(power.mean(0)[1:])


def autocorrelation(windows: Array) -> Array:
    """Return the correlation of a sample with the one k later, for k < L/2, over all windows."""
    centred = windows - windows.mean()
    lags = range(windows.shape[1] // 2)
    last = windows.shape[1]
    return (
        np.array([(centred[:, : last - k] * centred[:, k:]).mean() for k in lags]) / windows.var()
    )


def quantiles(windows: Array) -> Array:
    """Return the percentiles of all values, in mV."""
    return np.percentile(windows, np.arange(0.5, 100))


def spikes_per_second(windows: Array) -> float:
    """Return the rate of action potentials."""
    crossings = (windows[:, 1:] >= FIRES_MV) & (windows[:, :-1] < FIRES_MV)
    return float(crossings.sum() / (windows.size * SAMPLE_MS / 1000))


def to_nearest(windows: Array, length: int) -> float:
    """Return the median distance to the nearest of all training windows, RMS in mV."""
    training = load_signals("membrane", "train", length=length).stack()[:, 0].double()
    return float((torch.cdist(torch.from_numpy(windows), training).amin(1) / length**0.5).median())


def rms(a: Array, b: Array) -> float:
    """Return the root of the mean squared difference."""
    return float(np.sqrt(np.mean((a - b) ** 2)))


def draw(kinds: dict[str, Array], path: Path) -> None:
    """Draw some windows of every kind, and the three curves that are compared."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    grid = figure.add_gridspec(4, 3)
    colours = {"held out": "0.3", "training": "0.7", "generated": "C1"}
    for column, (name, windows) in enumerate(kinds.items()):
        for row in range(3):
            axes = figure.add_subplot(grid[row, column], ylim=(-65, 10))
            axes.plot(np.arange(windows.shape[1]) * SAMPLE_MS, windows[row], color=colours[name])
            axes.set_title(f"{name}, mV over ms" if row == 0 else "")
    curves = {
        "power spectral density, dB": (spectrum, 1000 / SAMPLE_MS / windows.shape[1], "Hz"),
        "autocorrelation": (autocorrelation, SAMPLE_MS, "ms"),
        "quantiles, mV": (quantiles, 1.0, "%"),
    }
    for column, (title, (curve, unit, label)) in enumerate(curves.items()):
        axes = figure.add_subplot(grid[3, column], title=title, xlabel=label)
        for name, windows in kinds.items():
            values = curve(windows)
            axes.plot(np.arange(len(values)) * unit, values, color=colours[name], label=name)
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=90)


def main(run: Path) -> None:
    """Train if need be, generate, compare, draw."""
    torch.set_num_threads(1)
    if not (run / "pipeline").is_dir():
        spikediff(["train", "sddpm/membrane", "--output", str(run), "--threads", "1"])
    made = generated(run)
    length = made.shape[1]
    kinds = {"held out": drawn("test", length), "training": drawn("train", length)}
    kinds["generated"] = made
    real = kinds["held out"]
    print(f"{COUNT} windows each of {length} samples; distance to the held-out ones")
    print(f"{'':10} {'spectrum':>9} {'autocorr.':>9} {'quantiles':>9} {'spikes':>7} {'nearest':>8}")
    for name, windows in kinds.items():
        distances = [rms(f(windows), f(real)) for f in (spectrum, autocorrelation, quantiles)]
        near = "" if name == "training" else f"{to_nearest(windows, length):5.2f} mV"
        print(
            f"{name:10} {distances[0]:6.2f} dB {distances[1]:9.3f} {distances[2]:6.2f} mV "
            f"{spikes_per_second(windows):4.1f} Hz {near:>8}"
        )
    draw(kinds, run / "signals.png")
    print(f"spectra, autocorrelations and quantiles: {run / 'signals.png'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/sddpm-membrane"))
