"""The authors' FSVAE checkpoints: key names, and sizes inferred from the weights."""

import re
from typing import Any

from torch import Tensor

from spikediff.errors import UserError
from spikediff.files.weights import conv3d_as_conv2d, load_renamed
from spikediff.systems.fsvae.network import FSVAE

_READOUT = "membrane_output_layer.coef"  # 0.8^(T-1-n), which tells T
_CONSTANTS = (_READOUT, "prior.initial_input", "posterior.initial_input")  # buffers that we compute
_PLACES = {"to_latent": "before_latent_layer", "from_latent": "decoder_input"}


def fsvae_key(key: str, levels: int) -> str:
    """Return the authors' name of one of our parameters or buffers; the last level has its own."""
    key = key.replace(".synapse.", ".").replace(".norm.", ".bn.")
    place, _, rest = key.partition(".")
    if place == "head":
        return f"final_layer.1.{rest}"
    if place == "decoder" and rest.startswith(f"{levels - 1}."):
        return f"final_layer.0.{rest.partition('.')[2]}"
    return f"{_PLACES.get(place, place)}.{rest}"


def infer_fsvae_config(state: dict[str, Tensor], sample_size: int) -> dict[str, Any]:
    """Return the arguments of `FSVAE` implied by the authors' weights; `sample_size` is checked."""
    numbers = (re.fullmatch(r"encoder\.(\d+)\.weight", key) for key in state)
    levels = sum(number is not None for number in numbers)
    try:
        widths = [state[f"encoder.{i}.weight"].shape for i in range(levels)]
        latent_channels, flat = state["before_latent_layer.weight"].shape
        candidates = state["prior.layers.2.weight"].shape[0]
        steps = state[_READOUT].shape[-1]
        in_channels = widths[0][1]
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"not an FSVAE state dict: {error} (it has {sorted(state)[:4]} ...)"
        ) from error
    side = round((flat / widths[-1][0]) ** 0.5)
    if side * 2**levels != sample_size:
        raise UserError(
            f"FSVAE checkpoint: it is of a network for images of {side * 2**levels} pixels, not "
            f"sample_size = {sample_size}"
        )
    return {
        "sample_size": sample_size,
        "in_channels": in_channels,
        "channels": [shape[0] for shape in widths],
        "latent_channels": latent_channels,
        "group_size": candidates // latent_channels,
        "spiking_steps": steps,
    }


def load_fsvae(state: dict[str, Tensor], spiking_steps: int, sample_size: int) -> FSVAE:
    """Build the model that an FSVAE state dict describes; T comes from the weights.

    `sample_size` must be 64 for the authors' large network.
    """
    config = infer_fsvae_config(state, sample_size)
    model: FSVAE = FSVAE(**config)
    levels = len(config["channels"])
    weights = {key: tensor for key, tensor in state.items() if key not in _CONSTANTS}
    load_renamed(
        model, weights, "FSVAE checkpoint", lambda key: fsvae_key(key, levels), conv3d_as_conv2d
    )
    return model
