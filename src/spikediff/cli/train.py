"""`spikediff train RECIPE`: train a model."""

import shlex
from dataclasses import dataclass, field, make_dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import tyro

from spikediff.cli.arguments import Range, parse
from spikediff.cli.outputs import counted, say_where
from spikediff.errors import UserError
from spikediff.files.yaml import read_yaml
from spikediff.pretrained import find_recipe
from spikediff.progress import at_work
from spikediff.training.recipe import Recipe, load_recipe, recipe_from

if TYPE_CHECKING:
    from spikediff.training.trainer import Trainer

_USAGE = "spikediff train RECIPE"


@dataclass(frozen=True)
class TrainOptions:
    """Train a model from a recipe; any value of the recipe is an option.

    Under `accelerate launch` or `torchrun` it trains on all processes.
    """

    recipe: Annotated[Recipe, tyro.conf.arg(name="")] = field(
        default_factory=lambda: recipe_from({}, "recipe")
    )
    """The type of its sections depends on the network and the loss: see `options_of`."""
    output: Path | None = None
    """Run folder; runs/NAME by default. A recipe without a name takes that of its folder."""
    data_dir: str | None = None
    """Folder of the data sets; short for --data.data-dir."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Continue the run in the folder."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Delete the run in the folder."""
    first_stage_steps: Annotated[int | None, Range(1, 10**9)] = None
    """Of a recipe of two stages: the steps of the first; --training.steps is for the second."""
    threads: Annotated[int, Range(0, 4096)] = 0
    """CPU threads; 0 leaves torch's choice."""


def read(arguments: list[str]) -> TrainOptions:
    """Read the arguments; the options depend on the recipe, the first argument."""
    asks_for_help = bool({"-h", "--help"} & set(arguments))
    if not arguments or (arguments[0].startswith("-") and not asks_for_help):
        raise UserError(f"{_USAGE}: give a recipe first, for example sddpm/digits")
    named = not arguments[0].startswith("-")
    recipe = _read(arguments[0], arguments[1:]) if named else recipe_from({}, "recipe")
    kind = options_of(cast(Any, type(recipe)))
    options: TrainOptions = parse(kind, arguments[named:], _USAGE, kind(recipe=recipe))
    if options.resume and options.overwrite:
        raise UserError("--resume and --overwrite cannot be combined")
    return options


def run(options: TrainOptions) -> int:
    """Train; return 0 when the run is complete, 1 when a signal stopped it."""
    recipe = options.recipe
    if options.data_dir is not None:
        recipe = replace(recipe, data=replace(recipe.data, data_dir=options.data_dir))
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    from spikediff.training.own_images import named_by_data

    recipe = named_by_data(recipe)
    root = options.output or Path("runs") / recipe.name
    first_steps = options.first_stage_steps
    return 0 if train_stages(recipe, root, options.resume, options.overwrite, first_steps) else 1


def _read(name: str, arguments: list[str]) -> Recipe:
    """Return the recipe for the network and the loss that the arguments choose."""
    file = find_recipe(name)
    content = read_yaml(file)
    for section, key in (("model", "network"), ("loss", "name")):
        flag = f"--{section}.{key}"
        for place, argument in enumerate(arguments):
            given, _, value = argument.partition("=")
            value = value or " ".join(arguments[place + 1 : place + 2])
            inner = (content.get(section) or {}) if isinstance(content, dict) else None
            if given == flag and isinstance(inner, dict):  # else `recipe_from` refuses it
                content[section] = {**inner, key: value}
    return recipe_from(content, str(file))


@cache
def options_of(kind: Any) -> Any:
    """Return the options of `train` for a type of recipe."""
    parts: list[Any] = [("recipe", Annotated[kind, tyro.conf.arg(name="")])]
    return make_dataclass("TrainOptions", parts, bases=(TrainOptions,), frozen=True)


def train_stages(
    recipe: Recipe,
    root: Path,
    resume: bool,
    overwrite: bool,
    first_stage_steps: int | None = None,
) -> bool:
    """Train a recipe after its first stage; return whether training is complete."""
    if recipe.first_stage is None:
        if first_stage_steps is not None:
            raise UserError(f"--first-stage-steps: {recipe.name} has one stage; --training.steps")
        return _train_one(recipe, root, resume, overwrite)
    if not _train_first_stage(recipe, root, first_stage_steps):
        return False
    return _train_one(recipe, root, resume, overwrite, "second of two stages: ")


def _train_first_stage(recipe: Recipe, root: Path, steps: int | None) -> bool:
    """Train the first stage that a recipe names, unless it exists; return if it is complete."""
    from spikediff.training.build import check_both_stages
    from spikediff.training.first_stage import first_stage_folder, is_finished
    from spikediff.training.own_images import choose_shape

    assert recipe.first_stage is not None
    folder = first_stage_folder(recipe, root)
    if is_finished(folder):
        print(f"first of two stages: {folder}")
        return True
    if folder == Path(recipe.first_stage):
        again = f"{shlex.quote(str(folder / 'recipe.yaml'))} --output {shlex.quote(str(folder))}"
        raise UserError(
            f"{folder}: is not trained to its end; run `spikediff train {again} --resume`"
        )
    first = load_recipe(find_recipe(recipe.first_stage))
    first = replace(first, data=replace(first.data, data_dir=recipe.data.data_dir))
    if steps is not None:
        first = replace(first, training=replace(first.training, steps=steps))
    check_both_stages(choose_shape(first)[0], recipe)
    begun = (folder / "recipe.yaml").is_file()
    return _train_one(first, folder, begun, False, "first of two stages: ")


def _told(trainer: "Trainer") -> str:
    """Return a line with the network, the data, the steps and the device."""
    model = trainer.network_in_training
    parameters = sum(p.numel() for p in model.parameters())
    data, recipe, last = trainer.dataset, trainer.recipe, trainer.recipe.training.steps
    steps = f"steps {trainer.step + 1:,} to {last:,} of {recipe.data.batch_size}"
    steps = steps if trainer.step < last else f"all {last:,} steps are made"
    return (
        f"{type(model).__name__}: {parameters:,} parameters, on {len(data):,} items of {data.name} "
        f"({data.channels} x {data.image_size}), {steps}, on {trainer.accelerator.device}"
    )


def _train_one(recipe: Recipe, root: Path, resume: bool, overwrite: bool, stage: str = "") -> bool:
    """Train one network, whose lines start with `stage`; return whether the run is complete."""
    from spikediff.training.trainer import Trainer

    with at_work(f"preparing {recipe.name}"):
        trainer = Trainer(recipe, root, resume, overwrite, stage=stage)
    if trainer.is_main and trainer.choice is not None:
        print(trainer.choice)
    if trainer.is_main:
        print(f"{stage}training {_told(trainer)}", flush=True)
    complete = trainer.train()
    if trainer.is_main and complete:
        what = f"trained {counted(trainer.step, 'step')}; pipeline, samples and loss curve"
        say_where(what, root, f"sample {shlex.quote(str(root))}")
    return complete
