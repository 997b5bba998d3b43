"""Size and channels of your own images, chosen once, before training.

A folder or a data set of the Hugging Face hub does not state its size and channels. They are chosen
from its pictures and written into the run's recipe, from which resuming and evaluation read them.
"""

import statistics
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from spikediff.data import DATASETS, Pictures, read_pictures
from spikediff.data.dataset import PictureShape
from spikediff.data.folder import FOLDER_PREFIX, HUB_PREFIX
from spikediff.errors import UserError
from spikediff.progress import at_work
from spikediff.systems import find_trainable
from spikediff.training.build import Parts, build_model
from spikediff.training.recipe import Recipe

SIDES = (64, 32, 16, 8)
_DECODED = 1000  # pictures to sample where the size is known only after decoding


def is_own(recipe: Recipe) -> bool:
    """Return whether a recipe trains on images outside the table of data sets."""
    images = find_trainable(recipe.model.network).items == "images"
    return images and recipe.data.dataset not in DATASETS


def named_by_data(recipe: Recipe) -> Recipe:
    """Return a recipe for your own images; without a name, it takes that of their folder."""
    if recipe.name != Recipe.name or not is_own(recipe):
        return recipe
    data = recipe.data.dataset
    if data.startswith(HUB_PREFIX):
        return replace(recipe, name=data.rpartition("/")[2])
    folder = Path(data.removeprefix(FOLDER_PREFIX)).expanduser().resolve()
    return replace(recipe, name=folder.name or recipe.name)


def choose_shape(
    recipe: Recipe, shapes: Sequence[PictureShape] | None = None
) -> tuple[Recipe, str | None]:
    """Choose the size and the channels that a recipe for your own images leaves open.

    If all pictures have the same size, of at most 64 pixels, it is that size; otherwise the largest
    of `SIDES` that does not exceed the median shorter side. The network must be able to divide it.
    There is one channel if all pictures are grey, otherwise three. Without `shapes`, the pictures
    are read; if each must be decoded, a sample of them, and all before one channel is chosen.

    Returns:
        The recipe, and a line that states the choice, or None if the recipe left nothing open.
    """
    data = recipe.data
    if not is_own(recipe) or None not in (data.image_size, data.channels):
        return recipe, None
    sampled = ""
    if shapes is None:
        with warnings.catch_warnings(action="ignore"):  # reading them for training warns
            pictures = read_pictures(data.dataset, "train", data.data_dir)
        count = len(pictures)
        step = 1 if pictures.read_shape is not None else -(-count // _DECODED)
        shapes = picture_shapes(pictures, step)
        if step > 1 and data.channels is None and all(shape.grey for shape in shapes):
            shapes = picture_shapes(pictures)
        sampled = "" if len(shapes) == count else f" (a sample of {count:,})"
    channels = data.channels or (1 if all(shape.grey for shape in shapes) else 3)
    sides = sorted(shape.side for shape in shapes)
    size = data.image_size or _fitting_size(recipe, sides, channels)
    median = statistics.median_low(sides)
    told = (
        f"{data.dataset}: {len(shapes):,} pictures{sampled}, {sides[0]} to {sides[-1]} pixels "
        f"on the shorter side (median {median}): training at {size} x {size} with {channels} "
        f"channel{'s' if channels > 1 else ''}; --data.image-size and --data.channels change that"
    )
    return replace(recipe, data=replace(data, image_size=size, channels=channels)), told


def picture_shapes(pictures: Pictures, step: int = 1) -> list[PictureShape]:
    """Return the shapes of every `step`-th picture."""
    indices = range(0, len(pictures), step)
    shapes = []
    with at_work("reading the sizes of pictures", len(indices)) as work:
        for index in indices:
            shapes.append(pictures.shape(index))
            work.advance()
    return shapes


def _fitting_size(recipe: Recipe, sides: Sequence[int], channels: int) -> int:
    """Return the largest of the candidate sizes that fits the network."""
    own = {sides[0]} if sides[0] == sides[-1] <= SIDES[0] else set()
    median = statistics.median_low(sides)
    wanted = sorted((side for side in {*SIDES, *own} if side <= median), reverse=True)
    reason = f"the median shorter side is {median} pixels"
    for size in wanted:
        try:
            with torch.device("meta"):
                build_model(Parts(recipe, size, channels))
        except UserError as error:
            reason = str(error)
        else:
            return size
    raise UserError(
        f"{recipe.data.dataset}: no size of {', '.join(map(str, sorted({*SIDES, *own})))} fits "
        f"({reason}); give data.image_size"
    )
