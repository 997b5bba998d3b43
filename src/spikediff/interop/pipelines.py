"""The authors' checkpoints as pipelines: a network and the diffusion that it was trained with."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from spikediff.errors import UserError
from spikediff.interop.authors import load_authors_checkpoint
from spikediff.models import VQSVAE, SpikingImageDecoder
from spikediff.pipelines import (
    SpikingDiffusionPipeline,
    SynapticCurrentPipeline,
    VAEPipeline,
    VQSpikingDiffusionPipeline,
)
from spikediff.schedulers import AbsorbingStateScheduler, make_scheduler

Source = str | Path | Mapping[str, Any]

_FIRST_STAGE = "spiking-diffusion"
_SECOND_STAGE = "spiking-diffusion-decoder"
# SDDPM and SDM: noise, on DDPM's linear schedule. The variance is that of their sampler.
_LINEAR = {
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "prediction_type": "epsilon",
    "variance_type": "fixed_large",
}
# FSDDIM: v, on the cosine schedule.
_COSINE = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
_TEMPERATURE = 0.65  # of the released code's samples; the paper does not say which its scores have


def load_authors_pipeline(
    checkpoint: Source,
    system: str,
    spiking_steps: int | None = None,
    sample_size: int | None = None,
    residual_alpha: float | None = None,
    first_stage: Source | None = None,
) -> DiffusionPipeline:
    """Make a pipeline of an authors' checkpoint, with the scheduler of its training.

    Args:
        checkpoint: As in `load_authors_checkpoint`, like the four arguments that follow.
        system: A key of `SYSTEMS`.
        spiking_steps: T of the training run.
        sample_size: Image size that the pipeline makes.
        residual_alpha: Of "fsddim" only.
        first_stage: Of "spiking-diffusion-decoder" only: the checkpoint of the VQ-SVAE whose tokens
            it was trained on. That one alone reconstructs images and generates none.

    Returns:
        The pipeline, in eval mode.

    Raises:
        UserError: As `load_authors_checkpoint`; or a first stage is missing, not needed, or has
            another codebook.
    """
    _check_first_stage(system, first_stage)
    of_decoder = system == _SECOND_STAGE
    size = None if of_decoder else sample_size
    model = load_authors_checkpoint(checkpoint, system, spiking_steps, size, residual_alpha)
    if of_decoder:
        assert first_stage is not None
        vqvae = load_authors_checkpoint(first_stage, _FIRST_STAGE, sample_size=sample_size)
        return _tokens(vqvae, model)
    return _PIPELINES[system](model)


def _check_first_stage(system: str, first_stage: Source | None) -> None:
    if system == _SECOND_STAGE and first_stage is None:
        raise UserError(
            f"{system}: generates tokens, and the first stage makes images of them; give the "
            f"authors' checkpoint of the VQ-SVAE as the first stage"
        )
    if system != _SECOND_STAGE and first_stage is not None:
        raise UserError(f"{system}: has one stage; leave the first stage out")


def _images(model: ModelMixin) -> DiffusionPipeline:
    """Return the pipeline of a denoiser of images, SDDPM's and SDM's."""
    noise = make_scheduler("ddpm", {**_LINEAR, "num_train_timesteps": _train_timesteps(model)})
    pipe: DiffusionPipeline = SpikingDiffusionPipeline(model, make_scheduler("ddim", noise.config))
    return pipe


def _currents(model: ModelMixin) -> DiffusionPipeline:
    """Return the pipeline of a denoiser of currents, FSDDIM's."""
    noise = {**_COSINE, "num_train_timesteps": _train_timesteps(model)}
    pipe: DiffusionPipeline = SynapticCurrentPipeline(
        model, make_scheduler("synaptic-ddim", make_scheduler("ddpm", noise).config)
    )
    return pipe


def _train_timesteps(model: ModelMixin) -> int:
    """Return the length of the diffusion clock, which the timestep table's rows tell."""
    config = model.config
    architecture = config.get("architecture", config)  # that of the U-Net in a converted network
    return int(architecture["num_train_timesteps"])


def _tokens(vqvae: VQSVAE, decoder: SpikingImageDecoder) -> DiffusionPipeline:
    """Return the pipeline of Spiking-Diffusion's two stages: one timestep per token."""
    height, width = vqvae.latent_size
    scheduler = AbsorbingStateScheduler(
        height * width, vqvae.config.codebook_size, temperature=_TEMPERATURE
    )
    pipe: DiffusionPipeline = VQSpikingDiffusionPipeline(vqvae, decoder, scheduler)
    return pipe


_PIPELINES: dict[str, Callable[[ModelMixin], DiffusionPipeline]] = {
    "sddpm": _images,
    "sdm": _images,
    "sdm-converted": _images,
    "sdm-quantised": _images,
    "fsddim": _currents,
    "spiking-diffusion": VAEPipeline,
    "fsvae": VAEPipeline,
}
