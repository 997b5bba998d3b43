"""One training step as the trainer makes it, without data and without reading a loss."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from performance.gpu.device import Bench
from performance.table import Group, available, sizes, times
from performance.timing import repeat
from spikediff.pretrained import find_recipe
from spikediff.training import build
from spikediff.training.computation import Precision, prepare_computation
from spikediff.training.optimizers import averaged
from spikediff.training.recipe import Recipe, load_recipe

CALLS = 5  # in one measurement
Step = Callable[[], None]


def recipe_of(
    name: str, batch: int, precision: Precision, compiled: bool = False, **model: Any
) -> Recipe:
    """Return a shipped recipe with another batch and computation.

    Args:
        name: Of the recipe.
        batch: Images of a step.
        precision: As `training.mixed_precision`.
        compiled: As `training.compile`.
        **model: Further values of the section `model:`.
    """
    recipe = load_recipe(find_recipe(name))
    training = replace(recipe.training, mixed_precision=precision, compile=compiled)
    return replace(
        recipe,
        model=replace(recipe.model, **model),
        data=replace(recipe.data, batch_size=batch),
        training=training,
    )


def training_step(
    recipe: Recipe,
    shape: tuple[int, int, int],
    device: torch.device,
    with_neurons: Callable[[Any], nn.Module] | None = None,
) -> Step:
    """Return a step of a new network on one batch that lies on the device.

    Args:
        recipe: Of the run.
        shape: [C, H, W] of an image.
        device: Where it is trained.
        with_neurons: Returns the network with a peer's neurons, which is trained eagerly.
    """
    batch = recipe.data.batch_size
    parts = build.Parts(recipe, shape[1], shape[0])
    model: Any = build.build_model(parts).to(device).train()
    num_classes = getattr(recipe.model, "num_classes", 0)
    if with_neurons is not None:
        model = with_neurons(model)
    average = averaged(model, recipe.ema).to(device)
    if with_neurons is None:
        prepare_computation(model, recipe.training, device)
    objective: Any = build.build_objective(parts)
    optimizer = build.build_optimizer(recipe.optimizer, model)
    lr_schedule = build.build_lr_schedule(recipe.optimizer, optimizer, recipe.training.steps)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((batch, *shape), generator=generator) * 2 - 1
    drawn = objective.draw((batch, *shape), 0.0, generator)
    inputs = [tensor.to(device) for tensor in (images, *drawn)]
    labels = torch.randint(max(1, num_classes), (batch,), generator=generator).to(device)
    given = {"class_labels": labels} if num_classes else {}
    in_bf16 = recipe.training.mixed_precision == "bf16"

    def call(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device.type, torch.bfloat16, enabled=in_bf16):
            return model(*args, **given, **kwargs)

    def step() -> None:
        losses = objective(call, *inputs)
        torch.stack(list(losses.terms.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.optimizer.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        lr_schedule.step()
        average.update_parameters(model)

    return step


def compare(
    section: str, name: str, batch: int, makers: Mapping[str, Callable[[], Step]], bench: Bench
) -> tuple[Group, Group]:
    """Return times, and peaks of memory, of steps; each step is new."""
    kept, first, peaks = {}, {}, {}

    def made(key: str, make: Callable[[], Step]) -> Step:
        kept[key] = bench.kept_bytes()
        step = make()
        first[key] = bench.seconds(step)
        peaks[key] = bench.peak_bytes(step, kept[key])
        return step

    steps, missing = available({key: partial(made, key, make) for key, make in makers.items()})
    calls = 1 if bench.interpreted else CALLS
    runs = {key: partial(repeat, step, calls) for key, step in steps.items()}
    many = dict.fromkeys(runs, calls)
    facts: dict[str, Any] = {"seconds_of_the_first_step": first}
    patience = bench.patience(15, 3.0)
    timed = times(section, name, runs, patience, missing, facts, warm_up=2, calls=many)
    timed.facts["images_per_second"] = {k: batch / row.median for k, row in timed.rows.items()}
    peaks = {key: peaks[key] for key in steps}
    memory = sizes(section, f"{name}, peak of tensors", peaks, missing)
    return timed, memory
