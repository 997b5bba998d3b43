"""A pipeline as a source of images, with a fingerprint of all that decides them."""

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
from spikediff.evaluation.sources import GeneratedImages

_PACKAGE = Path(__file__).parents[1]
_ROOMS = [
    "coding",
    "data",
    "events",
    "guidance",
    "layers",
    "models",
    "native",
    "neurons",
    "pipelines",
    "schedulers",
]
_SUFFIXES = (".py", ".c", ".h")


def pipeline_images(
    pipe: Any,
    seed: int = 0,
    num_inference_steps: int = 50,
    batch_size: int = 64,
    guidance_scale: float | None = None,
) -> GeneratedImages:
    """Return the images of a pipeline, one seed each, of its classes in turn if it knows any.

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
        device, torch's version and this library's code: images that any of them would change are
        made again.
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
    if guidance_scale is not None:
        description["guidance_scale"] = guidance_scale

    def make(seeds: Sequence[int]) -> Tensor:
        told = classes_in_turn(pipe, seeds)
        if guidance_scale is not None:
            told["guidance_scale"] = guidance_scale
        images: Tensor = pipe(
            seeds=seeds, num_inference_steps=num_inference_steps, output_type="pt", **told
        ).images
        return images

    fingerprint = fingerprint_of(torch=version("torch"), code=_code_sha256(), **description)
    return GeneratedImages(make, seed, batch_size, fingerprint, description)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without the notes that diffusers keeps in it, paths among them."""
    told = {k: v for k, v in config.items() if not k.startswith("_") or k == "_class_name"}
    plain: dict[str, Any] = json.loads(json.dumps(told, default=_told))
    return plain


def _told(value: Any) -> str:
    """Return an array in full, for str() leaves most of a long one out."""
    return str(value.tolist()) if hasattr(value, "tolist") else str(value)


def _code_sha256() -> str:
    """Return the SHA-256 of the code that makes images; a changed network makes other ones."""
    digest = hashlib.sha256()
    for room in _ROOMS:
        files = (_PACKAGE / room).rglob("*")
        for path in sorted(file for file in files if file.suffix in _SUFFIXES):
            digest.update(path.relative_to(_PACKAGE).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
