"""Images per second of every system, at the steps that it takes by default."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from performance import ours
from performance.missing import Missing
from performance.settings import Settings
from performance.sources import firing_of, pipeline_at
from performance.table import Group, available, times
from spikediff.energy import EnergyMeter
from spikediff.hub.load import steps_of

IMAGES = 8


def measure(settings: Settings) -> Iterator[Group]:
    """Measure the pipelines that were named; tell which of them are not there."""
    for name, folder in settings.pipelines.items():
        try:
            yield _compare(name, folder, settings)
        except Missing as reason:
            print(f"\nsampling: {name} -- {reason}")
    if not settings.pipelines:
        print("\nsampling: -- give --pipeline NAME=RUN, as often as there are systems")


def generate(pipe: Any, images: int, steps: int) -> Any:
    """Return images of seeds 0, 1, ..."""
    return pipe(seeds=range(images), num_inference_steps=steps, output_type="pt").images


def _compare(name: str, folder: Path, settings: Settings) -> Group:
    pipe = pipeline_at(folder)
    # An autoencoder ignores the steps: it has one.
    steps = steps_of(pipe, None) if "scheduler" in pipe.components else 1
    taken = min(steps, 4) if settings.quick else steps
    pipes, missing = available(
        {"ours plain": lambda: pipe, "ours compiled": partial(ours.compiled_pipeline, pipe)}
    )
    with EnergyMeter(pipe, images=2) as meter:  # also the warm-up of the plain form
        generate(pipe, 2, min(steps, 10))
    for made in pipes.values():
        generate(made, IMAGES, 1)
    firing = firing_of(meter)
    facts = {
        "weights": f"trained, {folder.name}",
        "firing_rate": firing["neurons"],
        "share_of_dense_operations": firing["operations"],
    }
    runs = {key: partial(generate, made, IMAGES, taken) for key, made in pipes.items()}
    title = f"{name}, {taken} steps, {IMAGES} images"
    patience = settings.patience(5, 60)
    group = times("sampling", title, runs, patience, missing, facts, warm_up=0)
    speeds = {key: IMAGES / row.median for key, row in group.rows.items()}
    return replace(group, facts=group.facts | {"images_per_second": speeds})
