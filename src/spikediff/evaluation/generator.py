"""A pipeline as a source of images, with a fingerprint of everything that decides them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from spikediff.diffusion.classes import classes_in_turn
from spikediff.diffusion.pipeline import scheduler_name, weights_sha256
from spikediff.evaluation.shards import fingerprint_of
from spikediff.evaluation.sources import ImageSource, generated_images

_PACKAGE = Path(__file__).parents[1]
ROOMS = ("data", "diffusion", "events", "layers", "native", "neurons", "systems")
"""The folders of code that makes images."""
_SUFFIXES = (".py", ".c", ".h")


def pipeline_images(
    pipe: Any,
    seed: int = 0,
    num_inference_steps: int = 50,
    batch_size: int = 64,
    guidance_scale: float | None = None,
) -> ImageSource:
    """Return the images of a pipeline, one seed each, of its classes in turn if it has any.

    Args:
        pipe: A pipeline of this library, or one with its contract: `pipe(seeds=...,
            num_inference_steps=..., output_type="pt").images` are [B, C, H, W] in [0, 1], and image
            k depends on `seeds[k]` alone.
        seed: Seed of image 0.
        num_inference_steps: Network calls per image.
        batch_size: Images at a time.
        guidance_scale: Of classifier-free guidance; None for none.

    Returns:
        The source. Its fingerprint covers weights, configurations, steps, the seed, the kind of
        device, torch's version and this library's code.
    """
    configurations = {
        name: _plain(part.config)
        for name, part in pipe.components.items()
        if hasattr(part, "config")
    }
    description = {
        "kind": "pipeline",
        "class": type(pipe).__name__,
        "weights_sha256": weights_sha256(pipe),
        "configuration_sha256": fingerprint_of(**configurations),
        "scheduler": scheduler_name(pipe),  # an autoencoder has none
        "num_inference_steps": num_inference_steps,
        "first_seed": seed,
        "device": pipe.device.type,
    }
    if getattr(pipe, "event_weights", None) is not None:
        description["event_driven"] = True  # its rounding differs
        if pipe.event_weights != "float32":
            description["event_weights"] = pipe.event_weights
    if classes_in_turn(pipe, [seed]):
        description["class_labels"] = "in turn"
    guidance = {} if guidance_scale is None else {"guidance_scale": guidance_scale}
    description |= guidance

    def make(seeds: Sequence[int]) -> Tensor:
        options = classes_in_turn(pipe, seeds) | guidance
        images: Tensor = pipe(
            seeds=seeds, num_inference_steps=num_inference_steps, output_type="pt", **options
        ).images
        return images

    fingerprint = fingerprint_of(torch=version("torch"), code=_code_sha256(), **description)
    return generated_images(make, seed, batch_size, fingerprint, description)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without diffusers' own notes, which hold paths."""
    own = {k: v for k, v in config.items() if not k.startswith("_") or k == "_class_name"}
    plain: dict[str, Any] = json.loads(json.dumps(own, default=_as_text))
    return plain


def _as_text(value: Any) -> str:
    """Return an array in full; str() shortens a long one."""
    return str(value.tolist()) if hasattr(value, "tolist") else str(value)


def _code_sha256() -> str:
    digest = hashlib.sha256()
    for room in ROOMS:
        files = (_PACKAGE / room).rglob("*")
        for path in sorted(file for file in files if file.suffix in _SUFFIXES):
            digest.update(path.relative_to(_PACKAGE).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
