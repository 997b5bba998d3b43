"""What counting costs: time of a denoising step with the energy meter over the time without.

    python benchmarks/energy_overhead.py [RUN_OR_PIPELINE]

One thread, CPU time, medians of interleaved repeats, so that other work on the machine cancels.
Without an argument, networks of random weights; they fire less than trained ones.
"""

import statistics
import sys
import time
from pathlib import Path

import torch

from spikediff.energy import EnergyMeter
from spikediff.hub.load import load_pipeline
from spikediff.systems.sddpm.network import SpikingUNet

REPEATS = 9


def seconds(model: torch.nn.Module, x: torch.Tensor) -> float:
    """Return the CPU time of one step."""
    start = time.process_time()
    model(x, 500)
    return time.process_time() - start


@torch.no_grad()
def overhead(model: torch.nn.Module, batch: int) -> tuple[float, float]:
    """Return the median seconds of a plain step, and the ratio with the meter."""
    config = model.config
    x = torch.randn(batch, config.in_channels, config.sample_size, config.sample_size)
    seconds(model, x)
    plain, counted = [], []
    for _ in range(REPEATS):
        plain.append(seconds(model, x))
        with EnergyMeter(model):  # entered once a generation: not part of a step's time
            counted.append(seconds(model, x))
    middle = statistics.median(plain)
    return middle, statistics.median(counted) / middle


def main() -> None:
    """Print a table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cases = {
        "width 32, 8x8": (
            SpikingUNet(8, 1, base_channels=32, channel_mult=(1, 2, 2)),
            (16, 64, 256),
        ),
        "width 32, 28x28": (SpikingUNet(28, 1, base_channels=32, channel_mult=(1, 2, 2)), (4, 16)),
        "SDDPM, 66.7 M, 32x32": (SpikingUNet(), (1, 4)),
    }
    for source in sys.argv[1:]:
        cases[source] = (load_pipeline(Path(source)).unet, (16, 64, 256))
    print(f"{'network':<28} {'batch':>5} {'plain [ms]':>11} {'with the meter':>15}")
    for name, (model, batches) in cases.items():
        for batch in batches:
            plain, ratio = overhead(model.eval(), batch)
            print(f"{name[-28:]:<28} {batch:>5} {1e3 * plain:>11.1f} {ratio:>14.2f}x")


if __name__ == "__main__":
    main()
