"""The released checkpoints of the published systems."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffusers.models.modeling_utils import ModelMixin

from spikediff.errors import UserError, suggestion
from spikediff.interop.fsvae import load_fsvae
from spikediff.interop.sddpm import load_sddpm
from spikediff.interop.sdm import load_sdm
from spikediff.interop.sdm_converted import load_sdm_converted, load_sdm_quantised
from spikediff.weights import find_state_dict, read_foreign_weights

SYSTEMS: dict[str, Callable[..., ModelMixin]] = {
    "sddpm": load_sddpm,
    "sdm": load_sdm,
    "sdm-converted": load_sdm_converted,
    "sdm-quantised": load_sdm_quantised,
    "fsvae": load_fsvae,
}
_PLACES = ("net_model", "ema_model", "model", "state_dict")


def load_authors_checkpoint(
    path_or_state_dict: str | Path | Mapping[str, Any],
    system: str,
    spiking_steps: int = 4,
    sample_size: int = 32,
) -> ModelMixin:
    """Build our model from a checkpoint of the authors' code.

    Every size is read off the weights; what they cannot tell is an argument.

    Args:
        path_or_state_dict: A file (`.pt` through `weights_only=True`, or `.safetensors`), a
            training checkpoint `{"net_model": ...}`, or the state dict itself.
        system: A key of `SYSTEMS`.
        spiking_steps: T of the training run; of "sdm" and "fsvae", whose weights tell
            it, not consulted.
        sample_size: Image size that a pipeline makes.

    Returns:
        The model, in eval mode.

    Raises:
        UserError: The system is unknown, the file unreadable, or keys do not fit; all are listed.
    """
    if system not in SYSTEMS:
        raise UserError(f"unknown system {system!r}; {suggestion(system, SYSTEMS)}")
    content = read_foreign_weights(path_or_state_dict)
    where = "state dict" if isinstance(path_or_state_dict, Mapping) else str(path_or_state_dict)
    state = find_state_dict(content, _PLACES, where)
    return SYSTEMS[system](state, spiking_steps=spiking_steps, sample_size=sample_size)
