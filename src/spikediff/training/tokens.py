"""Spiking-Diffusion in the common loop: what its two networks are made of, and sampled with."""

from pathlib import Path
from typing import Any

from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from spikediff.models import VQSVAE, SpikingImageDecoder
from spikediff.pipelines import VQSpikingDiffusionPipeline
from spikediff.schedulers import AbsorbingStateScheduler
from spikediff.training.first_stage import load_first_stage, token_dataset
from spikediff.training.objective import Objective
from spikediff.training.previews import preview_reconstructions
from spikediff.training.recipe import Recipe
from spikediff.training.token_objective import TokenObjective, vq_objective

AUTOENCODER_SETTINGS = (
    "spiking_steps",
    "neuron",
    "neuron_options",
    "widths",
    "codebook_size",
    "embedding_channels",
    "feature",
    "straight_through",
    "codebook",
)
DECODER_SETTINGS = (
    "spiking_steps",
    "neuron",
    "neuron_options",
    "widths",
    "token_input",
    "num_classes",
)
FIRST_WEIGHT = "encoder.layers.0.synapse.weight"


def given(recipe: Recipe, settings: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings of a network, less the widths where the published ones are meant."""
    options = {key: getattr(recipe.model, key) for key in settings}
    if not options.get("widths", True):
        del options["widths"]
    return options


def make_autoencoder(recipe: Recipe, image_size: int, channels: int, _root: Path) -> ModelMixin:
    """Make the first stage for images of a size."""
    options = given(recipe, AUTOENCODER_SETTINGS)
    model: ModelMixin = VQSVAE(sample_size=image_size, in_channels=channels, **options)
    return model


def make_decoder(recipe: Recipe, _image_size: int, _channels: int, root: Path) -> ModelMixin:
    """Make the second stage for the codebook of the first."""
    options = given(recipe, DECODER_SETTINGS)
    options["input"] = options.pop("token_input")
    codes = load_first_stage(recipe, root).config.codebook_size
    model: ModelMixin = SpikingImageDecoder(codebook_size=codes, **options)
    return model


def make_decoder_pipeline(model: ModelMixin, recipe: Recipe, root: Path) -> DiffusionPipeline:
    """Return the pipeline of both stages."""
    vqvae = load_first_stage(recipe, root).to(model.device)
    pipe: DiffusionPipeline = VQSpikingDiffusionPipeline(vqvae, model, _scheduler(recipe, vqvae))
    return pipe


def token_objective(recipe: Recipe, dataset: Any) -> Objective:
    """Return the second stage's loss for the tokens of a data set."""
    height, width = dataset.tokens.shape[-2:]
    scheduler = AbsorbingStateScheduler(height * width, dataset.mask_token)
    return TokenObjective(scheduler, recipe.loss.weighting)


def _scheduler(recipe: Recipe, vqvae: VQSVAE) -> AbsorbingStateScheduler:
    height, width = vqvae.latent_size
    scheduler: AbsorbingStateScheduler = AbsorbingStateScheduler(
        height * width,
        vqvae.config.codebook_size,
        temperature=recipe.sampling.temperature,
        unmasking=recipe.sampling.unmasking,
    )
    return scheduler


__all__ = [
    "AUTOENCODER_SETTINGS",
    "DECODER_SETTINGS",
    "FIRST_WEIGHT",
    "make_autoencoder",
    "make_decoder",
    "make_decoder_pipeline",
    "preview_reconstructions",
    "token_dataset",
    "token_objective",
    "vq_objective",
]
