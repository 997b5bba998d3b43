"""A recipe: everything that decides a training run, as typed values.

A recipe is read from YAML, overridden on the command line, and saved with the run. Reading one
imports neither torch nor diffusers.

Finding a recipe: a file, or the name of one that comes with the package.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from spikediff.errors import UserError, suggestion
from spikediff.files.writing import write_if_other
from spikediff.files.yaml import build, read_yaml


@dataclass(frozen=True)
class ModelRecipe:
    """Which network, and its sizes; the image's size and channels come from the data.

    A key that the network does not have must keep its default.
    """

    network: str = "spiking_unet"
    """spiking_unet, spiking_unet_1d for signals, integer_unet, synaptic_current_unet, vq_svae,
    spiking_image_decoder, fsvae; or, ordinary networks, ddpm_unet and vae."""
    base_channels: int = 128
    """Width of the first level."""
    channel_mult: tuple[int, ...] = (1, 2, 2, 4)
    """Width of every level, in multiples of base_channels."""
    layers_per_block: int = 2
    """Residual blocks per level."""
    spiking_steps: int = 4
    """T, the spiking steps of one network call."""
    neuron: str = "if"
    """if, lif or plif."""
    neuron_options: dict[str, bool | float | str | None] = field(default_factory=dict)
    """Keyword arguments of the neuron, for example {tau: 2.0}; a surrogate may be a mapping."""
    block: str = "pre_spike"
    """pre_spike or plain."""
    dropout: float = 0.0
    """Probability of dropping a spiking unit."""
    readout: str = "decayed_sum"
    """decayed_sum, mean or last."""
    temporal_scaling: bool = False
    """Whether every spiking step has a learned factor in each layer (SDM's TSM)."""
    num_classes: int = 0
    """Classes that the network can be asked for, as many as the data set has; 0 for none."""
    patch_size: int = 1
    """Side of the patches that spiking_unet sees as one pixel; 2 spares most of the work."""
    spiking_head: bool = False
    """Whether spiking_unet ends in one convolution of spikes, which exports to NIR."""
    position_embedding: bool = False
    """Whether spiking_unet learns a current for every place of the image, to know where it is."""
    attention: bool = False
    """Whether the middle of ddpm_unet attends to itself."""
    residual_alpha: float = 1.0
    """Gain of synaptic_current_unet's residual norms; 0.7071 is tdBN as its paper means it."""
    spiking_stem: bool = False
    """Whether neurons fire behind the first convolution of synaptic_current_unet."""
    spiking_resampling: bool = False
    """Whether neurons fire where synaptic_current_unet changes the image size."""
    widths: tuple[int, ...] = ()
    """Channels of the layers of vq_svae, spiking_image_decoder, fsvae and vae; the published ones
    where none is given."""
    codebook_size: int = 128
    """Codes of vq_svae."""
    embedding_channels: int = 16
    """Length of a code of vq_svae."""
    feature: str = "released"
    """What of its spikes vq_svae quantises: released or paper."""
    straight_through: str = "dense"
    """How the gradient of vq_svae steps over the quantiser: dense or spike."""
    codebook: str = "gradient"
    """How the codes of vq_svae are learnt: gradient or ema."""
    token_input: str = "embedding"
    """What spiking_image_decoder sees of a token: embedding or raw."""
    latent_channels: int = 128
    """Latent units of fsvae and vae."""
    group_size: int = 20
    """Candidates of a latent unit of fsvae a step."""
    block_out_channels: tuple[int, ...] = (48, 96)
    """Width of every level of integer_unet."""
    levels: int = 4
    """D, the largest spike count of a neuron of integer_unet."""
    head_levels: int = 15
    """D of the neurons before the last convolution of integer_unet."""
    activation: str = "integer"
    """Neurons of integer_unet: integer, or silu for its ordinary counterpart."""
    per_channel: bool = True
    """Whether every channel of integer_unet has a threshold of its own."""
    weight_bits: int | None = None
    """8, 6 or 4 rounds the weights of integer_unet in training, as the deployment form does."""


@dataclass(frozen=True)
class DataRecipe:
    """Which images, at which size."""

    dataset: str = "digits"
    """A name of the table of data sets, a folder of images, or hf:DATASET_ID; of a network of
    signals, a name of the table of signals or a .npy file."""
    image_size: int | None = None
    """Side in pixels, or samples of a signal's window; the data set's own where it is not given."""
    channels: int | None = None
    """1 or 3; the data set's own where it is not given."""
    resize_filter: str = "bilinear"
    """PIL's name of the filter."""
    horizontal_flip: bool = False
    """Whether half of the training images are mirrored."""
    batch_size: int = 64
    """Images per optimizer step, over all processes and accumulated parts together."""
    workers: int = 0
    """Processes that decode images; 0 decodes in the training process."""
    data_dir: str | None = None
    """Folder that holds the data sets."""
    hold_out: bool = False
    """Whether a tenth of the training split is kept from training, to choose values by later."""
    signal_range: tuple[float, float] | None = None
    """Values of a signal, in its unit, that the network sees as -1 and 1; images have none."""


@dataclass(frozen=True)
class DiffusionRecipe:
    """The noise schedule and what the network estimates."""

    num_train_timesteps: int = 1000
    """Length of the diffusion clock."""
    beta_schedule: str = "linear"
    """linear, scaled_linear or squaredcos_cap_v2 (cosine)."""
    beta_start: float = 1e-4
    """First beta of the linear schedules."""
    beta_end: float = 0.02
    """Last beta of the linear schedules."""
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    """What the network estimates."""


@dataclass(frozen=True)
class LossRecipe:
    """What training makes small."""

    name: str = "denoising"
    """denoising; synaptic_current for a network that answers in currents; vq_svae, absorbing and
    autoencoder for the networks of tokens and latents."""
    label_dropout: float = 0.1
    """How often a network with classes is shown none, for classifier-free guidance."""
    min_snr_gamma: float = 0.0
    """Gamma of min-SNR weighting of the denoising loss, about 5; 0 for none."""
    p2_gamma: float = 0.0
    """Gamma of P2 weighting of the denoising loss, 0.5 to 1; 0 for none."""
    rate_penalty: float = 0.0
    """Weight of the spikes per synapse (T x rate) of integer_unet."""
    change_penalty: float = 0.0
    """Weight of the changes per synapse of integer_unet between neighbouring timesteps."""
    consistency: float = 1.0
    """Weight, in synaptic_current, of the variance of the currents over the spiking steps."""
    consistency_weights: Literal["released", "constant"] = "released"
    """How that weight depends on t: as far as the output moves the next current, or not at all."""
    spike_level: float = 0.0
    """Weight, in synaptic_current, of the error of every single spiking step."""
    commitment: float = 0.25
    """Weight, in vq_svae, of the terms that hold the encoder to its codes."""
    weighting: Literal["reweighted", "elbo", "released"] = "reweighted"
    """How absorbing weighs the time."""
    scheduled_sampling: tuple[float, float] = (0.1, 0.3)
    """How likely fsvae's prior goes on from its own guess, at the first step and at the last."""


@dataclass(frozen=True)
class OptimizerRecipe:
    """How the weights move."""

    name: Literal["adam", "adamw", "muon"] = "adam"
    """Adam, AdamW with decoupled weight decay, or Muon for the kernels and AdamW for the rest."""
    lr: float = 2e-4
    """Learning rate after the warm-up."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of Adam's first and second moments."""
    weight_decay: float = 0.0
    """Weight decay."""
    schedule: Literal["constant", "cosine", "linear", "warmup_stable_decay"] = "constant"
    """What follows the warm-up; all but constant fall to 0 at the last step."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from 0."""
    decay_steps: int = 0
    """Last steps of warmup_stable_decay, over which the learning rate falls linearly to 0."""
    fused: bool = False
    """Whether one kernel updates all weights; the last bit may differ from the other way."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm; 0 leaves them."""
    gradient_accumulation_steps: int = 1
    """Parts into which a batch is cut to save memory."""


@dataclass(frozen=True)
class EMARecipe:
    """The running average of weights and buffers that samples are drawn with."""

    decay: float = 0.9999
    """Decay per step; 0 switches the average off."""
    warmup: bool = True
    """Whether the decay rises as (1 + n) / (10 + n), for short runs."""


@dataclass(frozen=True)
class SamplingRecipe:
    """The sample grids that are drawn during training."""

    scheduler: str = "ddim"
    """ddpm, ddim, synaptic-ddim, dpmsolver++, unipc or deis."""
    num_inference_steps: int = 50
    """Network calls per image."""
    num_images: int = 64
    """Images in a grid, from the seeds 0, 1, 2, ..."""
    every: int = 1000
    """Steps between two grids; 0 draws only the last."""
    temperature: float = 1.0
    """What divides the logits of tokens; the pipeline keeps it."""
    unmasking: Literal["ancestral", "confidence"] = "ancestral"
    """The order in which tokens are unmasked; the pipeline keeps it."""


@dataclass(frozen=True)
class TrainingRecipe:
    """How long, and what is kept."""

    steps: int = 10_000
    """Optimizer steps."""
    log_every: int = 10
    """Steps between two rows of the loss curve."""
    checkpoint_every: int = 1000
    """Steps between two checkpoints; one is always written at the end."""
    keep_last: int = 2
    """Checkpoints that are kept."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Precision of the forward pass."""
    compress_activations: bool = True
    """Keep spikes as bits between forward and backward pass, on a CPU; no value changes."""
    event_driven: bool = False
    """On a CPU in float32, let convolutions add the weights of what fired; rounding changes."""
    gradient_checkpointing: bool = False
    """Compute residual blocks again in the backward pass instead of keeping what is in them."""
    compile: bool = False
    """Compile the network by torch.compile; takes a minute or two, and rounding changes."""
    keep_large_tensors: bool = False
    """Let the process keep freed memory, which spares page faults above 32 MiB a tensor (glibc)."""
    trackers: tuple[str, ...] = ()
    """Trackers of accelerate that also get the curve: tensorboard, wandb, ..."""


@dataclass(frozen=True)
class Recipe:
    """A training run."""

    name: str = "run"
    """Name of the run."""
    seed: int = 0
    """Seed of the weights, of the order of the data and of all noise."""
    init_from: str | None = None
    """Run or pipeline folder whose (averaged) weights training starts from, to fine-tune them."""
    first_stage: str | None = None
    """Recipe of the autoencoder that is trained first; or the folder of its run, if it is there."""
    model: ModelRecipe = field(default_factory=ModelRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    diffusion: DiffusionRecipe = field(default_factory=DiffusionRecipe)
    loss: LossRecipe = field(default_factory=LossRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    ema: EMARecipe = field(default_factory=EMARecipe)
    sampling: SamplingRecipe = field(default_factory=SamplingRecipe)
    training: TrainingRecipe = field(default_factory=TrainingRecipe)


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe from YAML.

    Args:
        path: The file.

    Returns:
        The recipe; what the file does not name has its default.

    Raises:
        UserError: The file is absent, empty or no YAML, a key is unknown, or a value has a wrong
            type.
    """
    content = read_yaml(Path(path))
    if content is None:
        raise UserError(f"{path}: is empty; a recipe names at least one value")
    return recipe_from(content, str(path))


def recipe_from(content: Any, where: str) -> Recipe:
    """Build a recipe from nested mappings.

    Args:
        content: Mappings as YAML gives them.
        where: Their source, for messages.

    Raises:
        UserError: A key is unknown, or a value has a wrong type.

    Example:
        >>> recipe_from({"optimizer": {"lr": "1e-3"}}, "here").optimizer.lr
        0.001
    """
    recipe: Recipe = build(Recipe, content, where)
    return recipe


def load_run_recipe(folder: Path) -> Recipe:
    """Read the recipe that a run was made by.

    Args:
        folder: The run folder.

    Raises:
        UserError: As `load_recipe`; or the file is empty, which stands for no run.
    """
    path = folder / "recipe.yaml"
    content = read_yaml(path)
    if not content:
        raise UserError(f"{path}: is empty; put the recipe of the run back, or delete the folder")
    return recipe_from(content, str(path))


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write every value of the recipe as YAML; `load_recipe` reads the same recipe back."""
    write_if_other(path, recipe_text(recipe))


def recipe_text(recipe: Recipe) -> str:
    """Return every value of the recipe as YAML."""
    return yaml.safe_dump(_plain(asdict(recipe)), sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    """Return the value with lists for tuples, which YAML has no safe word for."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


_PACKAGE = Path(__file__).parents[1]
# A wheel carries the recipes inside the package; a checkout has them at its root.
_SHELVES = (_PACKAGE / "recipes", _PACKAGE.parents[1] / "recipes")


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that come with the package, by name: `sddpm/digits` and so on."""
    for shelf in _SHELVES:
        if shelf.is_dir():
            paths = sorted(shelf.glob("*/*.yaml"))
            return {path.relative_to(shelf).with_suffix("").as_posix(): path for path in paths}
    return {}


def find_recipe(name: str) -> Path:
    """Return the file of a recipe.

    Args:
        name: A path, or the name of a shipped recipe, with or without `recipes/` and `.yaml`.

    Raises:
        UserError: There is no such file and no such recipe.
    """
    if Path(name).is_file():
        return Path(name)
    shipped = shipped_recipes()
    short = name.removeprefix("recipes/").removesuffix(".yaml")
    if short in shipped:
        return shipped[short]
    raise UserError(f"{name}: no such recipe; {suggestion(short, shipped)}")
