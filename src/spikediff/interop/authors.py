"""The released checkpoints of the published systems."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffusers.models.modeling_utils import ModelMixin

from spikediff.errors import UserError, suggestion
from spikediff.interop.fsddim import load_fsddim
from spikediff.interop.fsvae import load_fsvae
from spikediff.interop.recognition import wrong_system_hint
from spikediff.interop.sddpm import load_sddpm
from spikediff.interop.sdm import load_sdm
from spikediff.interop.sdm_converted import load_sdm_converted, load_sdm_quantised
from spikediff.interop.spiking_diffusion import load_image_decoder, load_vq_svae
from spikediff.weights import find_state_dict, read_foreign_weights

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
