"""A training step of the integer network beside its ordinary counterpart, on a GPU."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from performance.gpu.device import Bench, clear
from performance.gpu.steps import Step, compare, recipe_of, training_step
from performance.table import Group
from spikediff.training.computation import Precision

SECTION = "integer training on a GPU"
RECIPE, SHAPE = "integer/mnist-classes", (1, 28, 28)
BATCHES = (64, 512)
SMALL: dict[str, Any] = {"block_out_channels": (16, 32)}  # of the network, to test
WAYS: tuple[tuple[str, Precision, bool], ...] = (
    ("bf16 compiled", "bf16", True),
    ("bf16", "bf16", False),
    ("float32", "no", False),
)


def batches(bench: Bench) -> tuple[int, ...]:
    """Return the images of a step, one case each."""
    return (8,) if bench.interpreted else BATCHES


def measure(bench: Bench) -> Iterator[Group]:
    """Measure steps of both networks at every batch, compiled at the largest only."""
    for way, precision, compiled in WAYS:
        for batch in batches(bench)[-1:] if compiled else batches(bench):
            makers = {
                activation: partial(integer_step, activation, batch, precision, compiled, bench)
                for activation in ("silu", "integer")
            }
            yield from compare(SECTION, f"a step of {batch} images, {way}", batch, makers, bench)
            clear()


def integer_step(
    activation: str, batch: int, precision: Precision, compiled: bool, bench: Bench
) -> Step:
    """Return a step of the integer network ("integer") or its counterpart ("silu")."""
    small = SMALL if bench.quick or bench.interpreted else {}
    recipe = recipe_of(RECIPE, batch, precision, compiled, activation=activation, **small)
    if activation == "silu":
        recipe = replace(recipe, loss=replace(recipe.loss, rate_penalty=0.0))
    return training_step(recipe, SHAPE, bench.device)
