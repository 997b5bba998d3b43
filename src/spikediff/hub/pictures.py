"""The picture of a card: what the run drew at its end, or what the pipeline draws now."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from spikediff.data.decoding import read_image
from spikediff.hub.facts import ModelFacts
from spikediff.hub.own_files import own_file
from spikediff.pipelines import classes_in_turn, image_grid

_BATCH = 16  # images at a time; it does not change them


@dataclass(frozen=True)
class Picture:
    """A grid of images and what it shows.

    Attributes:
        image: The grid.
        caption: What it shows, without a full stop.
    """

    image: Image.Image
    caption: str


def choose_picture(
    facts: ModelFacts, source: Path, pipe: Any, num_inference_steps: int, count: int = 64
) -> Picture | None:
    """Return the grid that a run drew with the weights that it left, else one drawn now.

    Args:
        facts: What is known of the model.
        source: The run's folder.
        pipe: The pipeline.
        num_inference_steps: Network calls per image of a grid that is drawn now.
        count: Its images.

    Returns:
        The picture; None of an autoencoder that only reconstructs, whose run draws training images.
    """
    if not facts.generates:
        return None
    if facts.stages and (drawn := _drawn_by_run(facts, source)) is not None:
        return drawn
    images: list[Image.Image] = []
    for first in range(0, count, _BATCH):
        seeds = range(first, min(first + _BATCH, count))
        told = classes_in_turn(pipe, seeds)
        images += pipe(seeds=seeds, num_inference_steps=num_inference_steps, **told).images
    return Picture(image_grid(images), f"{_images_of(facts, count)}, not selected")


def _images_of(facts: ModelFacts, count: int) -> str:
    in_turn = ", of the classes in turn" if any(part.classes for part in facts.networks) else ""
    return f"Images of the seeds 0 to {count - 1}{in_turn}"


def _drawn_by_run(facts: ModelFacts, source: Path) -> Picture | None:
    stage = facts.stages[-1]
    path = source / "samples" / f"step-{stage.steps or 0:08d}.png"
    if stage.steps is None or not path.is_file():
        return None
    sampling = stage.recipe.sampling
    return Picture(
        read_image(own_file(path, source)),
        f"{_images_of(facts, sampling.num_images)}, not selected, drawn at the end of the "
        f"training in {sampling.num_inference_steps} steps",
    )
