"""Telling by its keys which system a state dict is of, for whoever named another one.

The released checkpoints of the published systems.

The authors' checkpoints as pipelines: a network and the diffusion that it was trained with.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.errors import UserError, suggestion
from spikediff.files.weights import find_state_dict, read_foreign_weights
from spikediff.systems.converted.released import load_sdm_converted, load_sdm_quantised
from spikediff.systems.fsddim.pipeline import SynapticCurrentPipeline
from spikediff.systems.fsddim.released import load_fsddim
from spikediff.systems.fsvae.pipeline import VAEPipeline
from spikediff.systems.fsvae.released import load_fsvae
from spikediff.systems.sddpm.released import load_sddpm
from spikediff.systems.sdm.released import load_sdm
from spikediff.systems.spiking_diffusion.absorbing import AbsorbingStateScheduler
from spikediff.systems.spiking_diffusion.decoder import SpikingImageDecoder
from spikediff.systems.spiking_diffusion.pipeline import VQSpikingDiffusionPipeline
from spikediff.systems.spiking_diffusion.released import load_image_decoder, load_vq_svae
from spikediff.systems.spiking_diffusion.vq_svae import VQSVAE

# A key that only the network of one system has; the first that is there decides.
_TELLTALES = {
    "conv.tsmp": "sdm",
    "conv_identity.weight": "sddpm",
    "tail.1.act_alpha": "sdm-converted",
    "tail.block.1.act_alpha": "sdm-converted",
    "mid_block1.conv1.weight": "fsddim",
    "vq_layer.embeddings.weight": "spiking-diffusion",
    "conv2.0.weight": "spiking-diffusion-decoder",
    "before_latent_layer.weight": "fsvae",
}
# Systems whose state dicts are the same tensors.
_ALIKE = {"sdm-quantised": "sdm-converted"}


def likely_system(keys: Iterable[str]) -> str | None:
    """Return the system whose network has keys like these; None where no system has.

    Args:
        keys: The keys of a state dict of an authors' network.

    Example:
        >>> likely_system(["bn.weight", "conv_identity.weight"])
        'sddpm'
        >>> likely_system(["fc.weight"]) is None
        True
    """
    known = set(keys)
    return next((system for key, system in _TELLTALES.items() if key in known), None)


def wrong_system_hint(keys: Iterable[str], system: str) -> str:
    """Return what to add to an error where the keys are those of another system; else nothing.

    Args:
        keys: The keys of the state dict.
        system: The system that was named.

    Example:
        >>> wrong_system_hint(["conv.tsmp"], "fsvae")
        "; its keys look like system 'sdm'"
        >>> wrong_system_hint(["tail.1.act_alpha"], "sdm-quantised")
        ''
    """
    likely = likely_system(keys)
    same = likely is None or likely == _ALIKE.get(system, system)
    return "" if same else f"; its keys look like system {likely!r}"


SYSTEMS: dict[str, Callable[..., ModelMixin]] = {
    "sddpm": load_sddpm,
    "sdm": load_sdm,
    "sdm-converted": load_sdm_converted,
    "sdm-quantised": load_sdm_quantised,
    "fsddim": load_fsddim,
    "spiking-diffusion": load_vq_svae,
    "spiking-diffusion-decoder": load_image_decoder,
    "fsvae": load_fsvae,
}
# What the released runs of a system had, where it is not T = 4 and 32 pixels.
_RELEASED = {
    "sdm-converted": {"spiking_steps": 3},
    "sdm-quantised": {"spiking_steps": 3},
    "spiking-diffusion": {"sample_size": 28},
    "spiking-diffusion-decoder": {"spiking_steps": 16},
}
_PLACES = ("net_model", "ema_model", "model", "model_state_dict", "state_dict")


def load_authors_checkpoint(
    path_or_state_dict: str | Path | Mapping[str, Any],
    system: str,
    spiking_steps: int | None = None,
    sample_size: int | None = None,
    residual_alpha: float | None = None,
) -> ModelMixin:
    """Build our model from a checkpoint of the authors' code.

    Every size is read off the weights; what they cannot tell is an argument.

    Args:
        path_or_state_dict: A file (`.pt` through `weights_only=True`, or `.safetensors`), a
            training checkpoint `{"net_model": ...}`, or the state dict itself.
        system: A key of `SYSTEMS`.
        spiking_steps: T of the training run, by default that of the release: 4, 16 of
            "spiking-diffusion-decoder", 3 (for 2 bits) of "sdm-converted". Not consulted where the
            weights tell it ("sdm", "spiking-diffusion", "fsvae").
        sample_size: Image size that a pipeline makes, by default that of the release: 32, or 28 of
            "spiking-diffusion".
        residual_alpha: Of "fsddim" only, 1.0 by default; see `interop.fsddim.load_fsddim`.

    Returns:
        The model, in eval mode.

    Raises:
        UserError: The system is unknown or has no `residual_alpha`, the file unreadable, or keys do
            not fit; all are listed, and the system that they look like.
    """
    if system not in SYSTEMS:
        raise UserError(f"unknown system {system!r}; {suggestion(system, SYSTEMS)}")
    content = read_foreign_weights(path_or_state_dict)
    where = "state dict" if isinstance(path_or_state_dict, Mapping) else str(path_or_state_dict)
    state = find_state_dict(content, _PLACES, where)
    given = {"spiking_steps": spiking_steps, "sample_size": sample_size}
    released = {"spiking_steps": 4, "sample_size": 32} | _RELEASED.get(system, {})
    options: dict[str, Any] = released | {k: v for k, v in given.items() if v is not None}
    if residual_alpha is not None:
        if system != "fsddim":
            raise UserError(f"residual_alpha = {residual_alpha}: {system!r} has none; leave it out")
        options["residual_alpha"] = residual_alpha
    try:
        return SYSTEMS[system](state, **options)
    except UserError as error:
        hint = wrong_system_hint(state, system)
        if not hint:
            raise
        raise UserError(f"{error}{hint}") from error


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
