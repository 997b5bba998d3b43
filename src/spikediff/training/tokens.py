"""The losses of Spiking-Diffusion in the common loop: its autoencoder, and masked tokens.

Spiking-Diffusion in the common loop: what its two networks are made of, and sampled with.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor, nn

from spikediff.data import change_range, to_model_range
from spikediff.diffusion.objective import Losses, Objective
from spikediff.errors import UserError
from spikediff.systems.spiking_diffusion.absorbing import AbsorbingStateScheduler, absorbing_loss
from spikediff.systems.spiking_diffusion.decoder import SpikingImageDecoder
from spikediff.systems.spiking_diffusion.pipeline import VQSpikingDiffusionPipeline
from spikediff.systems.spiking_diffusion.vq_svae import VQSVAE, VQSVAEOutput, vq_svae_terms
from spikediff.training.first_stage import load_first_stage
from spikediff.training.recipe import Recipe

_VARIANCE_IMAGES = 10_000  # enough to know the variance of the pixels to a percent


@dataclass(frozen=True)
class VQObjective:
    """Reconstruct an image out of its tokens; see `vq_svae_loss`.

    Attributes:
        data_variance: Variance of the training pixels in the model's range.
        commitment: Beta.
        input_range: Black and white as the model knows them.
    """

    data_variance: float
    commitment: float
    input_range: tuple[float, float]

    def prepare(self, items: Tensor) -> Tensor:
        """Return images in the model's range."""
        return change_range(to_model_range(items), new=self.input_range)

    def draw(
        self, shape: tuple[int, ...], progress: float, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Draw a seed for every image [B]; the first of a part seeds what it restarts."""
        return (torch.randint(2**31, shape[:1], generator=generator),)

    def __call__(self, model: nn.Module, x_0: Tensor, *drawn: Tensor) -> Losses:
        """Return the terms, and as watched the squared error and the perplexity."""
        generator = torch.Generator(x_0.device).manual_seed(int(drawn[0][0]))
        # Mixed precision casts outputs, and cannot rebuild one of several fields.
        output = VQSVAEOutput(*model(x_0, generator, return_dict=False))
        terms = vq_svae_terms(output, self.data_variance, self.commitment)
        watched = {"mse": output.reconstruction_loss, "perplexity": output.perplexity}
        return Losses(terms, watched)


def vq_objective(recipe: Recipe, dataset: Any) -> Objective:
    """Return the first stage's loss for the images of a data set.

    Raises:
        UserError: All images are of one grey.
    """
    input_range = (-0.5, 0.5)
    count = min(len(dataset), _VARIANCE_IMAGES)
    pixels = torch.stack([dataset[i][0] for i in range(count)])
    variance = float(change_range(to_model_range(pixels), new=input_range).var())
    if not variance > 0.0:
        raise UserError(f"data set {dataset.name}: all images are of one grey")
    return VQObjective(variance, recipe.loss.commitment, input_range)


@dataclass(frozen=True)
class TokenObjective:
    """Mask tokens, and ask the network what lies behind.

    Attributes:
        scheduler: The absorbing-state diffusion.
        weighting: Key of `spikediff.systems.spiking_diffusion.absorbing.LOSS_WEIGHTS`.
    """

    scheduler: AbsorbingStateScheduler
    weighting: str

    def prepare(self, items: Tensor) -> Tensor:
        """Return tokens [B, h, w]."""
        return items[:, 0].long()

    def draw(
        self, shape: tuple[int, ...], progress: float, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Draw a timestep of every grid [B], from 1 to T_d, and uniforms [B, h, w]."""
        longest = self.scheduler.config.num_train_timesteps
        timestep = torch.randint(1, longest + 1, shape[:1], generator=generator)
        return timestep, torch.rand((shape[0], *shape[2:]), generator=generator)

    def __call__(self, model: nn.Module, x_0: Tensor, *drawn: Tensor) -> Losses:
        """Return the weighted cross entropy behind the masks, and how often the guess is right."""
        timestep, uniforms = drawn
        noised = self.scheduler.add_noise(x_0, uniforms, timestep)
        masked = noised == self.scheduler.config.mask_token
        logits = model(noised, timestep).sample.float()
        steps = self.scheduler.config.num_train_timesteps
        loss = absorbing_loss(logits, x_0, masked, timestep, steps, self.weighting)
        right = ((logits.argmax(1) == x_0) & masked).sum() / masked.sum().clamp(min=1)
        return Losses({"absorbing": loss}, {"right": right})


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
