"""Build the parts of a run from its recipe: items, network, loss, pipeline, optimizer."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor

from spikediff.data import change_range, to_model_range
from spikediff.diffusion.objective import Objective
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.diffusion.seeds import derived_seed
from spikediff.errors import UserError
from spikediff.systems import find_trainable
from spikediff.training.batches import image_dataset, signal_dataset
from spikediff.training.first_stage import check_second_stage, load_first_stage, token_dataset
from spikediff.training.optimizers import MuonWithAdamW
from spikediff.training.recipe import DiffusionRecipe, OptimizerRecipe, Recipe, check_recipe


@dataclass
class Parts:
    """The parts of a run; implements `spikediff.diffusion.objective.RunParts`."""

    recipe: Recipe
    image_size: int  # side of an item, in pixels
    channels: int
    root: Path = Path()  # the run folder, in which a second stage finds its first
    dataset: Any = None  # the training items; None if the network only samples

    @property
    def num_train_timesteps(self) -> int:
        """Length of the diffusion clock."""
        return self.recipe.diffusion.num_train_timesteps

    @cached_property
    def noise_schedule(self) -> Any:
        """The DDPM scheduler that adds noise to the items."""
        return build_noise_schedule(self.recipe.diffusion)

    @property
    def sampler(self) -> Any:
        """The recipe's sampling scheduler, on the same noise schedule."""
        return make_scheduler(self.recipe.sampling.scheduler, self.noise_schedule.config)

    @cached_property
    def first_stage(self) -> Any:
        """The trained first stage, frozen."""
        return load_first_stage(self.recipe, self.root)

    @property
    def codebook_size(self) -> int:
        """Number of codes of the first stage."""
        size: int = self.first_stage.config.codebook_size
        return size

    def to_model_range(self, items: Tensor) -> Tensor:
        """Map stored items to the range that a denoiser sees."""
        signals = self.recipe.data.signal_range
        return to_model_range(items) if signals is None else change_range(items, old=signals)


def build_noise_schedule(recipe: DiffusionRecipe) -> Any:
    """Return the DDPM scheduler that adds noise to the training items."""
    # The tables of SDDPM were made with fixed_large.
    return make_scheduler("ddpm", {**vars(recipe), "variance_type": "fixed_large"})


def build_items(recipe: Recipe, root: Path) -> Any:
    """Return the training items of a recipe: images, windows of a signal, or tokens."""
    kind = find_trainable(recipe.model.network).items
    if kind == "tokens":
        return token_dataset(recipe, root)
    return signal_dataset(recipe.data) if kind == "signals" else image_dataset(recipe.data)


def build_model(parts: Parts) -> ModelMixin:
    """Build the network, with initial weights from the recipe's seed."""
    row = find_trainable(parts.recipe.model.network)
    arguments = {key: argument for argument, key in row.keys.items()}
    given = {arguments.get(k, k): v for k, v in vars(parts.recipe.model).items() if k != "network"}
    known = {argument: getattr(parts, name) for argument, name in row.from_run.items()}
    torch.manual_seed(derived_seed(parts.recipe.seed, "weights"))
    return row.network(**known, **row.fixed, **given)


def build_objective(parts: Parts) -> Objective:
    """Build the loss of a run; its parts must include the items."""
    recipe = parts.recipe
    given = {k: v for k, v in vars(recipe.loss).items() if k not in ("name", "label_dropout")}
    return find_trainable(recipe.model.network).objectives[recipe.loss.name](parts, **given)


def build_pipeline(model: ModelMixin, parts: Parts) -> DiffusionPipeline:
    """Return a pipeline that samples with a network and the recipe's scheduler, no progress bar."""
    pipe = find_trainable(parts.recipe.model.network).pipeline(model.eval(), parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def build_optimizer(recipe: OptimizerRecipe, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of the trainable parameters."""
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "muon": MuonWithAdamW,
    }
    return kinds[recipe.name](
        [p for p in model.parameters() if p.requires_grad],
        lr=recipe.lr,
        betas=recipe.betas,
        weight_decay=recipe.weight_decay,
        fused=recipe.fused or None,
    )


def build_lr_schedule(
    recipe: OptimizerRecipe, optimizer: torch.optim.Optimizer, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Return the learning-rate schedule of a run."""
    from diffusers.optimization import get_scheduler

    if recipe.schedule == "warmup_stable_decay":
        return torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min(
                1.0,
                (step + 1) / (recipe.warmup_steps + 1),
                (steps - step) / (recipe.decay_steps + 1),
            ),
        )
    name = "constant_with_warmup" if recipe.schedule == "constant" else recipe.schedule
    schedule: torch.optim.lr_scheduler.LambdaLR = get_scheduler(
        name, optimizer, num_warmup_steps=recipe.warmup_steps, num_training_steps=steps
    )
    return schedule


def check_both_stages(first: Recipe, second: Recipe) -> None:
    """Refuse a second stage that cannot sample the tokens of the first stage, an autoencoder."""
    check_recipe(first)
    check_recipe(second)
    check_second_stage(second)
    images = image_dataset(first.data)
    with torch.device("meta"):
        autoencoder: Any = build_model(Parts(first, images.image_size, images.channels))
    if "codebook_size" not in autoencoder.config:
        made = type(autoencoder).__name__
        raise UserError(f"first_stage = {second.first_stage}: a {made} produces no tokens")
    height, width = autoencoder.latent_size
    steps = second.sampling.num_inference_steps
    if steps > height * width:
        raise UserError(
            f"sampling.num_inference_steps = {steps} must be at most {height * width}, the tokens "
            f"of an image of {images.image_size} pixels"
        )
