"""Load trained networks, and start runs from their weights."""

from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

import spikediff
from spikediff.data import DATASETS
from spikediff.diffusion.classes import name_classes
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.loop import networks_of
from spikediff.diffusion.model import quiet
from spikediff.diffusion.saving import INDEX, PIPELINES, check_networks, pipeline_class
from spikediff.errors import UserError, one_line, shown
from spikediff.files.reading import read_json
from spikediff.files.weights import load_renamed
from spikediff.pretrained import find_source, no_such_folder
from spikediff.systems import find_trainable
from spikediff.training.build import Parts, build_model, build_pipeline
from spikediff.training.checkpoint import Checkpoint, load_latest, plain_names
from spikediff.training.recipe import Recipe, load_run_recipe

# Options without weights, which fine-tuning may change.
_FREE = {"dropout", "weight_bits"}
# Options that fine-tuning may add, because they initially change nothing.
_NOTHING_AT_FIRST = {"temporal_scaling", "position_embedding"}


def load_trained(source: Path) -> DiffusionPipeline:
    """Load the pipeline of a pipeline or run folder, on the CPU and in eval mode.

    An unfinished run loads from its newest complete checkpoint; weights are always the averaged
    ones.
    """
    if source.is_file():
        raise UserError(f"{source}: is a file; give the folder of a pipeline or of a run")
    if not source.is_dir():
        raise no_such_folder(source)
    for folder in (source, source / "pipeline"):
        if (folder / INDEX).is_file():
            return _saved_pipeline(folder)
    if (source / "recipe.yaml").is_file():
        return _unfinished_run(source)
    raise UserError(f"{source}: contains neither a pipeline ({INDEX}) nor a run")


def _saved_pipeline(folder: Path) -> DiffusionPipeline:
    quiet()
    index = read_json(folder / INDEX)
    if not isinstance(index, dict):
        raise UserError(f"{folder / INDEX}: is damaged, it holds {shown(index)}")
    check_networks(index, folder, only_safetensors=True)
    try:
        name = pipeline_class(index)
        make = getattr(spikediff, name) if name in PIPELINES else SpikingDiffusionPipeline
        pipe: DiffusionPipeline = make.from_pretrained(
            folder,
            use_safetensors=True,
            dtype=torch.float32,  # half precision is for the disk
        )
    except UserError:
        raise
    except Exception as error:  # diffusers wraps damage in exceptions of many kinds
        reason = one_line(error, 200)
        raise UserError(f"{folder}: cannot load the pipeline ({reason})") from error
    return pipe


def _unfinished_run(root: Path) -> DiffusionPipeline:
    recipe = load_run_recipe(root)
    checkpoint = load_latest(root / "checkpoints")
    if checkpoint is None:
        raise UserError(f"{root}: the run has no checkpoint yet")
    weights = plain_names(checkpoint.tensors["average"])
    size, channels = checkpoint.state["image_size"], _channels(recipe, checkpoint)
    parts = Parts(recipe, size, channels, root)
    model = build_model(parts)
    load_renamed(model, weights, f"{root}: its checkpoint")
    name_classes(model, checkpoint.state.get("class_names", ()))
    return build_pipeline(model, parts)


def _channels(recipe: Recipe, checkpoint: Checkpoint) -> int:
    """Return the channels of the items; checkpoints of the first versions do not store them."""
    if "data" in checkpoint.state:
        channels: int = checkpoint.state["data"]["channels"]
        return channels
    return recipe.data.channels or DATASETS[recipe.data.dataset].channels


def start_from(source: Path, model: ModelMixin, recipe: Recipe) -> None:
    """Copy the weights of an earlier run into a model, for fine-tuning.

    Network, noise schedule and target must be the same. Temporal scaling may be added, because its
    factors are initially 1; so may a position embedding, whose currents are initially 0. An image
    denoiser without scaling has no weights per spiking step, so T may change.
    """
    pipe = load_trained(find_source(source))
    row = find_trainable(recipe.model.network)
    trained = pipe.components.get(row.part)
    if type(trained) is not type(model):
        ours = type(model).__name__
        theirs = " and ".join(type(network).__name__ for network in networks_of(pipe).values())
        raise UserError(f"{source}: holds {theirs}, the recipe makes {ours}; give a run of {ours}")
    old, new = dict(trained.config), dict(model.config)
    scaled = old.get("temporal_scaling") or new.get("temporal_scaling")
    if row.any_spiking_steps and not scaled:
        old["spiking_steps"] = new["spiking_steps"]
    _check_same(source, "network", old, new)
    if "scheduler" in pipe.components:
        _check_same(source, "diffusion", dict(pipe.scheduler.config), vars(recipe.diffusion))
    model.load_state_dict({**model.state_dict(), **trained.state_dict()})


def _check_same(source: Path, part: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Refuse weights trained with other settings, and name every difference."""
    differences = [
        f"{key} is {theirs[key]} there and {value} in the recipe"
        for key, value in ours.items()
        if not key.startswith("_")
        and key in theirs
        and key not in _FREE
        and _plain(theirs[key]) != _plain(value)
        and not (key in _NOTHING_AT_FIRST and value)
    ]
    if differences:
        raise UserError(f"{source}: trained another {part}: {'; '.join(differences)}")


def _plain(value: Any) -> Any:
    """Return a setting as read from JSON; None and empty values are equal."""
    return list(value) if isinstance(value, list | tuple) else value or None
