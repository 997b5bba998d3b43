"""Published systems and our own, one folder each; each folder's docstring gives the reading order.

`SYSTEMS` has one row per folder: the networks that a recipe can train. The folder's own `SYSTEM`
defines how each is built, trained and sampled, and which released checkpoints can be loaded.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from spikediff.diffusion.objective import Objective, RunParts
from spikediff.errors import UserError, suggestion

IMAGES = {"sample_size": "image_size", "in_channels": "channels"}
IMAGES_AND_CLOCK = {**IMAGES, "num_train_timesteps": "num_train_timesteps"}


@dataclass(frozen=True)
class Trainable:
    """A network that a recipe can train.

    Attributes:
        network: Its class or builder. The keyword arguments are the recipe's `model:` section.
        objectives: Its losses by `loss.name`, the default first. The keyword arguments of each are
            the recipe's `loss:` section; the one positional argument is the run.
        pipeline: Makes the pipeline that samples with it: `pipeline(model, run)`.
        part: The network's name in the pipeline.
        items: The kind of training data.
        preview: What the sample grids in the run folder show.
        from_run: Arguments of the network that the run provides: name -> attribute of `RunParts`.
        fixed: Arguments of the network that no recipe changes.
        keys: Recipe keys that differ from the argument's name: argument -> key.
        any_spiking_steps: Whether trained weights fit every T, without temporal scaling.
    """

    network: Callable[..., ModelMixin]
    objectives: Mapping[str, Callable[..., Objective]]
    pipeline: Callable[[Any, RunParts], DiffusionPipeline]
    part: str = "unet"
    items: Literal["images", "signals", "tokens"] = "images"
    preview: Literal["samples", "reconstructions", "signals"] = "samples"
    from_run: Mapping[str, str] = field(default_factory=lambda: IMAGES)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    any_spiking_steps: bool = False


@dataclass(frozen=True)
class Released:
    """A kind of checkpoint that the authors of a system released.

    Attributes:
        load: Makes our network: `load(state_dict, spiking_steps=..., sample_size=...)`.
        telltales: Keys that only this kind has; any one of them identifies it.
        pipeline: Makes the pipeline, with the diffusion used in training; with a first stage,
            `pipeline(first, model)`.
        spiking_steps: T of the released runs.
        sample_size: Their image size.
        first_stage: The kind of checkpoint that decodes this one's output into images.
        options: Further arguments of `load` that cannot be inferred from the weights.
    """

    load: Callable[..., ModelMixin]
    telltales: tuple[str, ...]
    pipeline: Callable[..., DiffusionPipeline]
    spiking_steps: int = 4
    sample_size: int = 32
    first_stage: str | None = None
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class System:
    """A published system.

    Attributes:
        networks: What recipes can train, by `model.network`.
        released: The kinds of checkpoints that its authors released, by name.
    """

    networks: Mapping[str, Trainable] = field(default_factory=dict)
    released: Mapping[str, Released] = field(default_factory=dict)


SYSTEMS: dict[str, tuple[str, ...]] = {
    "sdm": (),
    "sddpm": ("spiking_unet", "spiking_unet_1d"),
    "converted": (),
    "fsddim": ("synaptic_current_unet",),
    "spiking_diffusion": ("vq_svae", "spiking_image_decoder"),
    "fsvae": ("fsvae", "vae"),
    "integer": ("integer_unet",),
    "ddpm": ("ddpm_unet",),
}
"""Folder -> the names of its networks in a recipe. A folder is imported when needed."""


def load_system(name: str) -> System:
    """Return the `SYSTEM` of a folder."""
    system: System = import_module(f"{__name__}.{name}").SYSTEM
    return system


def find_trainable(network: str) -> Trainable:
    """Return the network that a recipe's `model.network` names.

    Example:
        >>> find_trainable("vae").part
        'vae'
    """
    for name, networks in SYSTEMS.items():
        if network in networks:
            return load_system(name).networks[network]
    known = [network for networks in SYSTEMS.values() for network in networks]
    raise UserError(f"model.network = {network!r}: no such network; {suggestion(network, known)}")
