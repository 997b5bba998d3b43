"""A training step of the integer network beside its ordinary counterpart; the trainer around it.

`steps` are forward, backward and optimiser on one batch. `trainer` is the time of an image in
`spikediff train`, with data, average, clipping, curve and checkpoints, on the wall; the bare loop,
measured before and after it, has none of them.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

import spikediff as sd
from performance.integer_section import MNIST
from performance.settings import Settings
from performance.table import Group, Row, times
from spikediff.systems.integer import IntegerSpikingUNet
from spikediff.training.computation import prepare_computation
from spikediff.training.curve import read_curve
from spikediff.training.recipe import TrainingRecipe

BATCH = 64
RATE_PENALTY = 0.02
BARE, TRAINED = 60, 200  # steps


def measure(settings: Settings) -> Iterator[Group]:
    """Measure steps of both networks, eager and compiled; then the trainer."""
    shape = MNIST | ({"block_out_channels": (16, 32)} if settings.quick else {})
    runs = {
        f"{activation}, {how}": _step(activation, shape, compiled)
        for how, compiled in (("compiled", True), ("eager", False))
        for activation in ("silu", "integer")
    }
    yield times("integer training", f"a step of {BATCH} images", runs, settings.patience(21, 60))
    yield _trainer(settings)


def _step(activation: str, shape: dict[str, Any], compiled: bool) -> Callable[[], object]:
    """Return what makes one step of a new network."""
    torch.manual_seed(0)
    unet = IntegerSpikingUNet(**shape, activation=activation).train()
    prepare_computation(unet, TrainingRecipe(compile=compiled), torch.device("cpu"))
    optimizer = torch.optim.AdamW(unet.parameters(), 2e-3, weight_decay=0.0, fused=True)
    size = shape["sample_size"]
    x, target = torch.randn(2, BATCH, 1, size, size)
    t = torch.randint(1000, (BATCH,))
    labels = torch.randint(10, (BATCH,))
    return partial(_train, unet, optimizer, (x, t, labels), target)


def _train(unet: Any, optimizer: Any, inputs: tuple[Any, ...], target: Any) -> None:
    optimizer.zero_grad(set_to_none=True)
    output = unet(*inputs)
    loss = F.mse_loss(output.sample, target)
    if unet.config.activation == "integer":
        loss = loss + RATE_PENALTY * output.rate
    loss.backward()
    optimizer.step()


def _trainer(settings: Settings) -> Group:
    """Compare an image of the trainer with one of the bare loop, compiled."""
    steps = 40 if settings.quick else TRAINED
    shape = {"block_out_channels": (16, 32)} if settings.quick else {}
    size, bare = MNIST["sample_size"], _step("integer", MNIST | shape, compiled=True)
    given = {**MNIST, **shape, "data.image_size": size, "data.batch_size": BATCH}
    del given["sample_size"]
    with tempfile.TemporaryDirectory() as folder:
        before = _seconds_per_image(bare)
        run = sd.train(
            "integer/digits",
            output=Path(folder) / "run",
            **{key if "." in key else f"model.{key}": value for key, value in given.items()},
            **{
                "training.steps": steps,
                "training.log_every": steps // 4,
                "training.checkpoint_every": steps // 2,
                "training.compile": True,
                "sampling.every": 0,
                "sampling.num_images": 1,
            },
        )
        after = _seconds_per_image(bare)
        curve = read_curve(run / "loss.csv")
    speeds = [1 / point.images_per_second for point in curve[1:]]  # the first one compiles
    medians = {"bare loop": (before + after) / 2, "trainer": statistics.median(speeds)}
    rows = {
        name: Row(value, value, value / medians["bare loop"], len(speeds))
        for name, value in medians.items()
    }
    return Group("integer training", "an image of 28x28", "s", rows)


def _seconds_per_image(step: Callable[[], object]) -> float:
    step()
    started = time.perf_counter()
    for _ in range(BARE):
        step()
    return (time.perf_counter() - started) / (BARE * BATCH)
