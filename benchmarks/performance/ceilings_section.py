"""What the machine can do at best: the ceilings that every other figure stands under."""

from collections.abc import Iterator
from functools import partial

import torch

from performance.settings import Settings
from performance.table import Group, times

ARRAYS = {"8 MiB": 2**21, "128 MiB": 2**25}  # floats: in the last cache, and far beyond it
SIDE = 1024  # of the matrices whose product is timed


def measure(settings: Settings) -> Iterator[Group]:
    """Measure copying memory, and multiplying matrices."""
    for name, floats in ARRAYS.items():
        source, target = torch.ones(floats), torch.empty(floats)
        runs = {"copy": partial(target.copy_, source)}
        group = times("ceilings", f"copy {name}", runs, settings.patience(15, 10), {}, {})
        group.facts["gigabytes_per_second"] = 8 * floats / group.rows["copy"].median / 1e9
        yield group
    a, b = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    runs = {"product": partial(torch.matmul, a, b)}
    name = f"product of {SIDE} x {SIDE}"
    group = times("ceilings", name, runs, settings.patience(15, 10), {}, {})
    group.facts["gigaflops"] = 2 * SIDE**3 / group.rows["product"].median / 1e9
    yield group
