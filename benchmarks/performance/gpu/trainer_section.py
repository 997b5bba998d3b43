"""Images per second of the trainer, by its own curve, beside the bare loop, on a GPU."""

import statistics
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import spikediff as sd
from performance.gpu.device import Bench, clear
from performance.gpu.steps import CALLS
from performance.gpu.training_section import (
    RECIPE,
    SECTION,
    SHAPE,
    SMALL,
    batches,
    integer_step,
)
from performance.table import Group, Row
from performance.timing import interleave, repeat
from spikediff.training.curve import read_curve

STEPS, LOGGED = 400, 50  # the first row of the curve compiles


def measure(bench: Bench) -> Iterator[Group]:
    """Measure the trainer at the largest batch, in bf16, compiled."""
    yield _compare(batches(bench)[-1], bench)


def _compare(batch: int, bench: Bench) -> Group:
    step = integer_step("integer", batch, "bf16", True, bench)
    patience = bench.patience(15, 3.0)
    calls = 1 if bench.interpreted else CALLS
    bare = interleave(
        {"bare loop": partial(repeat, step, calls)}, patience.rounds, patience.clock, warm_up=3
    )["bare loop"]
    del step
    clear()
    with tempfile.TemporaryDirectory() as folder:
        run = sd.train(RECIPE, output=Path(folder) / "run", **_settings(batch, bench))
        curve = read_curve(run / "loss.csv")[1:]
    rates = [point.images_per_second for point in curve]
    medians = {
        "bare loop": bare.median / (calls * batch),
        "trainer": 1 / statistics.median(rates),
    }
    least = {"bare loop": bare.minimum / (calls * batch), "trainer": 1 / max(rates)}
    rounds = {"bare loop": len(bare.seconds), "trainer": len(rates)}
    rows = {
        name: Row(value, least[name], value / medians["bare loop"], rounds[name])
        for name, value in medians.items()
    }
    facts = {
        "data": "digits at 28 pixels" if bench.data_dir is None else "MNIST",
        "images_per_second": {name: 1 / value for name, value in medians.items()},
    }
    name = f"an image of the trainer, {batch} at once, bf16 compiled"
    return Group(SECTION, name, "s", rows, facts=facts)


def _settings(batch: int, bench: Bench) -> dict[str, Any]:
    few = bench.quick or bench.interpreted
    steps, logged = (8, 2) if bench.interpreted else (STEPS, LOGGED)
    data: dict[str, Any] = {"data.dataset": "digits", "data.image_size": SHAPE[1]}
    if bench.data_dir is not None:
        data = {"data.data_dir": str(bench.data_dir)}
    return {
        **data,
        **({f"model.{key}": value for key, value in SMALL.items()} if few else {}),
        "data.batch_size": batch,
        "training.steps": steps,
        "training.log_every": logged,
        "training.checkpoint_every": steps,
        "training.mixed_precision": "bf16",
        "training.compile": True,
        "sampling.every": 0,
        "sampling.num_images": 1,
    }
