"""Where a convolution by events stops paying: by activity and T, and by channels.

    python benchmarks/break_even.py --output benchmarks/break_even.json

One thread, CPU time, medians. Spikes are random and independent. It is what `BREAK_EVEN` and
`FEWEST_CHANNELS` of `spikediff.events` were chosen by.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spikediff.events import EventConv2d, PackedSpikes, pack, synapse
from spikediff.events.weights import BITS

RATES = (0.2, 0.4, 0.6, 0.8, 1.0)
STEPS = (1, 2, 3, 4)
SIZES = ((16, 32), (32, 16), (48, 8), (64, 8), (128, 4))  # channels, pixels a side
ROUNDS = 9


def median(run: Callable[[], Any]) -> float:
    """Return the median time of a call, in milliseconds."""
    run()
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return 1e3 * sorted(times)[ROUNDS // 2]


def compare(steps: int, channels: int, size: int, rate: float) -> dict[str, float]:
    """Return both times of a 3x3 convolution of as many channels in and out, batch 8."""
    conv = nn.Conv2d(channels, channels, 3, padding=1)
    event, int16, int8 = (EventConv2d(conv, weights) for weights in BITS)
    weight = conv.weight.detach().contiguous(memory_format=torch.channels_last)
    spikes = (torch.rand(steps, 8, channels, size, size) < rate).float()
    packed: PackedSpikes = pack(spikes).flatten(0, 1)

    def dense(x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, weight, conv.bias, padding=1)

    images = spikes.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    return {
        "steps": steps,
        "channels": channels,
        "size": size,
        "rate": rate,
        "activity": packed.activity,
        "events_ms": median(lambda: event(packed)),
        "int16_ms": median(lambda: int16(packed)),
        "int8_ms": median(lambda: int8(packed)),
        "dense_ms": median(lambda: dense(images)),
        "unpacked_dense_ms": median(lambda: dense(packed.dense())),
    }


@torch.no_grad()
def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    synapse.BREAK_EVEN.clear()  # by events always
    rows = [compare(steps, 128, 16, rate) for steps in STEPS for rate in RATES]
    rows += [compare(4, channels, size, 0.12) for channels, size in SIZES]
    for row in rows:
        print("  ".join(f"{key} {value:.3g}" for key, value in row.items()))
    if options.output is not None:
        options.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
