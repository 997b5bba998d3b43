"""Threshold guidance of a pipeline, for every command that generates."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from spikediff.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from spikediff.evaluation.sources import ImageSource
    from spikediff.systems.sdm.threshold_guidance import Scale


def guided(pipe: Any, threshold: str | None) -> AbstractContextManager[None]:
    """Return a `with` block in which the pipeline samples with the text of `--threshold`."""
    if threshold is None:
        return nullcontext()
    from spikediff.systems.sdm.threshold_guidance import parse_scale, threshold_guidance

    if "unet" not in pipe.components:
        raise UserError(f"--threshold: a {type(pipe).__name__} has no denoiser of images to guide")
    return threshold_guidance(pipe.unet, parse_scale(threshold))


def guided_images(
    pipe: Any,
    scale: "Scale | None",
    seed: int,
    num_inference_steps: int,
    batch_size: int,
    guidance_scale: float | None = None,
) -> "ImageSource":
    """Return the images of a pipeline under guidance, which their fingerprint covers.

    Args:
        pipe: A pipeline with a `unet`.
        scale: A number, a mapping or a sequence of numbers; None for no guidance.
        seed: Seed of image 0.
        num_inference_steps: Network calls per image.
        batch_size: Images at a time.
        guidance_scale: Of classifier-free guidance; None for none.
    """
    from spikediff.evaluation.shards import fingerprint_of
    from spikediff.evaluation.sources import pipeline_images

    source = pipeline_images(pipe, seed, num_inference_steps, batch_size, guidance_scale)
    if scale is None:
        return source
    from spikediff.systems.sdm.threshold_guidance import threshold_guidance

    with threshold_guidance(pipe.unet, scale):
        pass  # a wrong layer or scale is an error before the reference is read

    def take(first: int, count: int) -> "Tensor":
        with threshold_guidance(pipe.unet, scale):
            return source.take(first, count)

    return replace(
        source,
        take=take,
        fingerprint=fingerprint_of(images=source.fingerprint, threshold=scale),
        description=source.description | {"threshold": scale},
    )
