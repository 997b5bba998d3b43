"""The authors' Spiking-Diffusion checkpoints: key names, and sizes inferred from the weights."""

import re
from functools import partial
from itertools import count
from typing import Any

from torch import Tensor

from spikediff.errors import UserError
from spikediff.files.weights import load_renamed
from spikediff.systems.spiking_diffusion.decoder import SpikingImageDecoder
from spikediff.systems.spiking_diffusion.vq_svae import VQSVAE

_PLACE = {"synapse": 0, "norm": 1}  # of our layer's parts in their Sequential


def vq_svae_key(key: str, depth: int = 2) -> str:
    """Return the authors' name of one of our parameters of a `VQSVAE` that halves `depth` times."""
    layer = re.fullmatch(r"(encoder|decoder)\.layers\.(\d+)\.(synapse|norm)\.(.*)", key)
    if layer is not None:
        part, index, kind, rest = layer.groups()
        return f"{part}.snn_convs.{3 * int(index) + _PLACE[kind]}.{rest}"
    for ours, theirs in {
        "spike_feature.mixture": "vq_layer.alpha",
        "spike_feature.weights": "vq_layer.memout.coef",
        "quantiser.codebook": "vq_layer.embeddings.weight",
        "spike_generator.layer.synapse": "vq_layer.poisson.0",
        "spike_generator.layer.norm": "vq_layer.poisson.1",
        "decoder.last": f"decoder.snn_convs.{3 * depth}",
        "decoder.weights": "memout.coef",
    }.items():
        if key.startswith(ours):
            return key.replace(ours, theirs)
    raise KeyError(key)


def image_decoder_key(key: str, depth: int = 5) -> str:
    """Return the authors' name of one of our parameters of `depth` layers and a last one."""
    layer = re.fullmatch(r"layers\.(\d+)\.(synapse|norm)\.(.*)", key)
    if layer is not None:
        index, kind, rest = layer.groups()
        return f"conv{int(index) + 1}.{_PLACE[kind]}.{rest}"
    return key.replace("last", f"conv{depth + 1}.0")


def load_vq_svae(state: dict[str, Tensor], spiking_steps: int, sample_size: int) -> VQSVAE:
    """Build the autoencoder of the first stage, for images in [-0.5, 0.5]."""
    config = _vq_svae_config(state)
    model: VQSVAE = VQSVAE(sample_size=sample_size, **config)
    key = partial(vq_svae_key, depth=len(config["widths"]))
    load_renamed(model, state, "Spiking-Diffusion checkpoint", key, _flat_weights)
    return model


def load_image_decoder(
    state: dict[str, Tensor], spiking_steps: int, sample_size: int
) -> SpikingImageDecoder:
    """Build the decoder of the second stage, for grids of any size."""
    convs = _convs(state, (f"conv{n}.0" for n in count(1)), "Spiking-Diffusion decoder")
    *layers, last = (weight.shape[0] for weight in convs)
    model: SpikingImageDecoder = SpikingImageDecoder(
        codebook_size=last, widths=layers, spiking_steps=spiking_steps, input="raw"
    )
    key = partial(image_decoder_key, depth=len(layers))
    load_renamed(model, state, "Spiking-Diffusion decoder checkpoint", key)
    return model


def _vq_svae_config(state: dict[str, Tensor]) -> dict[str, Any]:
    places = (f"encoder.snn_convs.{3 * n}" for n in count())
    convs = _convs(state, places, "Spiking-Diffusion")
    try:
        codebook_size, channels = state["vq_layer.embeddings.weight"].shape
        spiking_steps = len(state["memout.coef"])
    except KeyError as error:
        raise UserError(f"not a Spiking-Diffusion state dict: key {error} is missing") from error
    return {
        "in_channels": convs[0].shape[1],
        "widths": [weight.shape[0] for weight in convs[:-1]],
        "codebook_size": codebook_size,
        "embedding_channels": channels,
        "spiking_steps": spiking_steps,
    }


def _convs(state: dict[str, Tensor], places: Any, system: str) -> list[Tensor]:
    """Return the weights at successive places, as long as there are some; two at least."""
    convs: list[Tensor] = []
    for place in places:
        if f"{place}.weight" not in state:
            break
        convs.append(state[f"{place}.weight"])
    if len(convs) < 2:
        raise UserError(
            f"not a {system} state dict: key {place}.weight is missing (it has "
            f"{sorted(state)[:4]} ...)"
        )
    return convs


def _flat_weights(tensor: Tensor, key: str) -> Tensor:
    """Return the authors' tensor; their read-out weights [T, 1, 1, 1, 1] as the list they are."""
    return tensor.flatten() if key.endswith("memout.coef") else tensor
