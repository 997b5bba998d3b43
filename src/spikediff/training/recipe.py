"""A recipe: all settings of a training run, as typed values.

A recipe is read from YAML, overridden on the command line, and saved with the run. The sections
`model:` and `loss:` are the keyword arguments of the network and of its objective.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, make_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from spikediff.diffusion.schedulers import MOST_TIMESTEPS, SCHEDULERS
from spikediff.errors import UserError, shown, suggestion
from spikediff.files.writing import write_if_changed
from spikediff.files.yaml import build, check_value, read_yaml, section_of

# Analytic-DPM needs a trained model, which it calibrates before sampling.
_IN_TRAINING = [name for name in SCHEDULERS if name != "analytic-dpm"]


Rule = tuple[Callable[[Any], bool], str]  # whether a value is allowed, and the message if not
_POSITIVE: Rule = (lambda x: x > 0, "must be positive")
_NOT_NEGATIVE: Rule = (lambda x: x >= 0, "must not be negative")
_SHARE: Rule = (lambda x: 0 <= x < 1, "must lie in [0, 1)")
_SHARES: Rule = (lambda x: all(0 <= part < 1 for part in x), "must lie in [0, 1)")
_RANGE: Rule = (lambda x: x is None or x[0] < x[1], "must be two values, the lower one first")
_BETA: Rule = (lambda x: 0 < x < 1, "must lie between 0 and 1")


def _at_most(most: int) -> Rule:
    return (lambda x: x is None or 0 < x <= most, f"must be positive, and at most {most:,}")


def _ruled(default: Any, rule: Rule) -> Any:
    """Return a field with a rule for `check_recipe`."""
    return field(default=default, metadata={"rule": rule})


@cache
def model_section(network: str) -> Any:
    """Return the dataclass of a recipe's `model:` section: the arguments of `model.network`.

    Example:
        >>> model_section("ddpm_unet")(base_channels=64).channel_mult
        (1, 2, 2, 4)
    """
    from spikediff.systems import find_trainable  # imports torch

    row = find_trainable(network)
    known = (*row.from_run, *row.fixed)
    return section_of(row.network, {"network": network}, known, row.keys)


def loss_section(network: str, name: str | None = None) -> Any:
    """Return the dataclass of a recipe's `loss:` section: the arguments of the objective.

    It is the network's objective `loss.name`, by default its first.
    """
    from spikediff.systems import find_trainable

    objectives = find_trainable(network).objectives
    name = name or next(iter(objectives))
    if name not in objectives:
        hint = suggestion(name, objectives)
        raise UserError(f"loss.name = {name!r}: no loss of {network}; {hint}")
    return _objective_section(objectives[name], name)


@cache
def _objective_section(objective: Any, name: str) -> Any:
    return section_of(objective, {"name": name, "label_dropout": 0.1}, ("run",))


@dataclass(frozen=True)
class DataRecipe:
    """The images and their size."""

    dataset: str = "digits"
    """The name of a data set, a folder of images, or hf:DATASET_ID; for a network of signals, the
    name of a recording or a .npy file."""
    image_size: int | None = _ruled(None, _at_most(2**20))
    """Side in pixels, or samples in a signal's window; by default the data set's own."""
    channels: int | None = _ruled(None, _at_most(65_536))
    """1 or 3; by default the data set's own."""
    resize_filter: str = "bilinear"
    """PIL's name of the resize filter."""
    horizontal_flip: bool = False
    """Whether training images are mirrored with probability 1/2."""
    batch_size: int = _ruled(64, _at_most(65_536))
    """Images per optimizer step, over all processes and accumulated parts together."""
    workers: int = _ruled(0, _NOT_NEGATIVE)
    """Processes that decode images; 0 decodes in the training process."""
    data_dir: str | None = None
    """Folder of the data sets."""
    hold_out: bool = False
    """Whether to hold out a tenth of the training split, for choosing settings later."""
    signal_range: tuple[float, float] | None = _ruled(None, _RANGE)
    """Values of a signal, in its unit, that the network sees as -1 and 1; not for images."""


@dataclass(frozen=True)
class DiffusionRecipe:
    """The noise schedule and the prediction type."""

    num_train_timesteps: int = _ruled(1000, _at_most(MOST_TIMESTEPS))
    """Length of the diffusion clock."""
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    """The course of the betas; squaredcos_cap_v2 is the cosine."""
    beta_start: float = _ruled(1e-4, _BETA)
    """First beta of the linear schedules."""
    beta_end: float = _ruled(0.02, _BETA)
    """Last beta of the linear schedules."""
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    """What the network estimates."""


@dataclass(frozen=True)
class OptimizerRecipe:
    """The optimizer."""

    name: Literal["adam", "adamw", "muon"] = "adam"
    """Adam, AdamW with decoupled weight decay, or Muon for the kernels and AdamW for the rest."""
    lr: float = _ruled(2e-4, _POSITIVE)
    """Learning rate after the warm-up."""
    betas: tuple[float, float] = _ruled((0.9, 0.999), _SHARES)
    """Decay of Adam's first and second moments."""
    weight_decay: float = _ruled(0.0, _NOT_NEGATIVE)
    """Weight decay."""
    schedule: Literal["constant", "cosine", "linear", "warmup_stable_decay"] = "constant"
    """The schedule after the warm-up; all but constant fall to 0 at the last step."""
    warmup_steps: int = _ruled(0, _NOT_NEGATIVE)
    """Steps over which the learning rate rises from 0."""
    decay_steps: int = _ruled(0, _NOT_NEGATIVE)
    """Last steps of warmup_stable_decay, over which the learning rate falls linearly to 0."""
    fused: bool = False
    """Whether one kernel updates all weights, which may change the last bit."""
    max_grad_norm: float = _ruled(1.0, _NOT_NEGATIVE)
    """Gradients are clipped to this norm; 0 disables clipping."""
    gradient_accumulation_steps: int = _ruled(1, _POSITIVE)
    """Parts into which a batch is split to save memory."""


@dataclass(frozen=True)
class EMARecipe:
    """The running average of weights and buffers, which is used for sampling."""

    decay: float = _ruled(0.9999, _SHARE)
    """Decay per step; 0 disables the average."""
    warmup: bool = True
    """Whether the decay rises as (1 + n) / (10 + n), for short runs."""


@dataclass(frozen=True)
class SamplingRecipe:
    """The sample grids drawn during training."""

    scheduler: str = _ruled(
        "ddim", (lambda x: x in _IN_TRAINING, f"choose from {', '.join(_IN_TRAINING)}")
    )
    """ddpm, ddim, synaptic-ddim, dpmsolver++, unipc or deis."""
    num_inference_steps: int = _ruled(50, _POSITIVE)
    """Network calls per image."""
    num_images: int = _ruled(64, _at_most(65_536))
    """Images in a grid, from the seeds 0, 1, 2, ..."""
    every: int = _ruled(1000, _NOT_NEGATIVE)
    """Steps between two grids; 0 draws only the last."""
    temperature: float = _ruled(1.0, _NOT_NEGATIVE)
    """Temperature that divides the logits of tokens; stored in the pipeline."""
    unmasking: Literal["ancestral", "confidence"] = "ancestral"
    """The order in which tokens are unmasked; stored in the pipeline."""


@dataclass(frozen=True)
class TrainingRecipe:
    """Length of the training, output and computation."""

    steps: int = _ruled(10_000, _POSITIVE)
    """Optimizer steps."""
    log_every: int = _ruled(10, _POSITIVE)
    """Steps between two rows of the loss curve."""
    checkpoint_every: int = _ruled(1000, _POSITIVE)
    """Steps between two checkpoints; one is always written at the end."""
    keep_last: int = _ruled(2, _POSITIVE)
    """Number of checkpoints to keep."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Precision of the forward pass."""
    compress_activations: bool = True
    """Store spikes as bits between forward and backward pass, on a CPU; changes no value."""
    event_driven: bool = False
    """Compute convolutions by events, on a CPU in float32; changes rounding."""
    gradient_checkpointing: bool = False
    """Recompute residual blocks in the backward pass to save memory."""
    compile: bool = False
    """Compile the network with torch.compile; takes a minute or two and changes rounding."""
    keep_large_tensors: bool = False
    """Let the process keep freed memory, which saves page faults for large tensors (glibc)."""
    trackers: tuple[str, ...] = ()
    """Trackers of accelerate that also receive the curve: tensorboard, wandb, ..."""


@dataclass(frozen=True)
class Recipe:
    """A training run."""

    name: str = "run"
    """Name of the run."""
    seed: int = 0
    """Seed of the weights, the order of the data and all noise."""
    init_from: str | None = None
    """Run or pipeline folder whose averaged weights training starts from, for fine-tuning."""
    first_stage: str | None = None
    """Recipe of the autoencoder to train first, or the folder of its finished run."""
    model: Any = field(default_factory=lambda: model_section("spiking_unet")())
    """model.network, and the keyword arguments of that network."""
    data: DataRecipe = field(default_factory=DataRecipe)
    diffusion: DiffusionRecipe = field(default_factory=DiffusionRecipe)
    loss: Any = field(default_factory=lambda: loss_section("spiking_unet")())
    """loss.name, and the keyword arguments of that objective."""
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    ema: EMARecipe = field(default_factory=EMARecipe)
    sampling: SamplingRecipe = field(default_factory=SamplingRecipe)
    training: TrainingRecipe = field(default_factory=TrainingRecipe)


@cache
def _recipe_type(model: Any, loss: Any) -> type[Recipe]:
    """Return `Recipe` with the sections of a network and of one of its losses."""
    typed = [
        ("model", model, field(default_factory=model)),
        ("loss", loss, field(default_factory=loss)),
    ]
    return make_dataclass("Recipe", typed, bases=(Recipe,), frozen=True)


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe from YAML; missing keys take their defaults."""
    content = read_yaml(Path(path))
    if content is None:
        raise UserError(f"{path}: is empty; a recipe needs at least one value")
    return recipe_from(content, str(path))


def recipe_from(content: Any, where: str, of_run: bool = False) -> Recipe:
    """Build a recipe from nested mappings; `where` is their source, for messages.

    That of a run, perhaps of version 0.1.0, may have keys of other networks.

    Example:
        >>> recipe_from({"optimizer": {"lr": "1e-3"}}, "here").optimizer.lr
        0.001
    """
    model = content.get("model") if isinstance(content, Mapping) else None
    of_run = of_run or (isinstance(model, Mapping) and model.keys() >= _OF_TWO_NETWORKS)
    network = _named(content, "model", "network") or "spiking_unet"
    try:
        content = _without_earlier(content) if of_run else content
        loss = loss_section(network, _named(content, "loss", "name"))
        kind = _recipe_type(model_section(network), loss)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    recipe: Recipe = build(kind, content, where)
    return recipe


def _named(content: Any, section: str, key: str) -> str | None:
    """Return a string of a section; None if it is missing or wrong, which `build` reports."""
    inner = content.get(section) if isinstance(content, Mapping) else None
    name = inner.get(key) if isinstance(inner, Mapping) else None
    return name if isinstance(name, str) else None


def check_recipe(recipe: Recipe) -> None:
    """Refuse invalid values; the network and the loss check their own arguments.

    Example:
        >>> check_recipe(recipe_from({"training": {"steps": -3}}, "here"))
        Traceback (most recent call last):
        ...
        spikediff.errors.UserError: training.steps = -3 must be positive
    """
    for name, values in asdict(recipe).items():
        check_value(values, name)
    if Path(recipe.name).name != recipe.name or recipe.name in ("", ".."):
        raise UserError(f"name = {shown(recipe.name)} must be the name of a folder, without a path")
    for section in fields(recipe):
        inner = getattr(recipe, section.name)
        for part in fields(inner) if is_dataclass(inner) else ():
            allowed, words = part.metadata.get("rule", (lambda _: True, ""))
            value = getattr(inner, part.name)
            if not allowed(value):
                raise UserError(f"{section.name}.{part.name} = {shown(value)} {words}")


def with_shape_of(recipe: Recipe, other: Recipe) -> Recipe:
    """Return a recipe with another one's size and channels of images where it has none."""
    data, theirs = recipe.data, other.data
    size, channels = data.image_size or theirs.image_size, data.channels or theirs.channels
    return replace(recipe, data=replace(data, image_size=size, channels=channels))


def load_run_recipe(folder: Path) -> Recipe:
    """Read and check the recipe of a run folder."""
    path = folder / "recipe.yaml"
    content = read_yaml(path)
    if not content:
        raise UserError(f"{path}: is empty; restore the run's recipe, or delete the folder")
    recipe = recipe_from(content, str(path), of_run=True)
    try:
        check_recipe(recipe)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return recipe


# Keys that version 0.1.0 wrote for every network and every loss, with defaults.
_EARLIER_MODEL = """
    attention activation base_channels block block_out_channels channel_mult codebook codebook_size
    dropout embedding_channels feature group_size head_levels latent_channels layers_per_block
    levels neuron neuron_options num_classes patch_size per_channel position_embedding readout
    residual_alpha spiking_head spiking_resampling spiking_stem spiking_steps straight_through
    temporal_scaling token_input weight_bits widths
"""
_OF_TWO_NETWORKS = {"residual_alpha", "codebook_size"}  # no handwritten recipe has both
_EARLIER_LOSS = """
    change_penalty commitment consistency consistency_weights min_snr_gamma p2_gamma rate_penalty
    scheduled_sampling spike_level weighting
"""


def _without_earlier(content: Any) -> Any:
    """Return a run's recipe without the keys that an earlier version wrote for other networks."""
    network, loss = _named(content, "model", "network"), _named(content, "loss", "name")
    if network is None or loss is None:
        return content
    sections = (
        ("model", model_section(network), _EARLIER_MODEL.split()),
        ("loss", loss_section(network, loss), _EARLIER_LOSS.split()),
    )
    kept = {}
    for name, kind, earlier in sections:
        known = {part.name for part in fields(kind)}
        kept[name] = {
            key: value
            for key, value in content[name].items()
            if (key in known or key not in earlier) and (key, value) != ("widths", [])
        }
    return {**content, **kept}


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write every value of the recipe as YAML; `load_recipe` reads the same recipe back."""
    write_if_changed(path, recipe_text(recipe))


def recipe_text(recipe: Recipe) -> str:
    """Return every value of the recipe as YAML."""
    return yaml.safe_dump(_plain(asdict(recipe)), sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    """Return the value with lists instead of tuples, which safe YAML does not support."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
