"""What a network is trained on: the images or the windows of a signal that a recipe names."""

from spikediff.data import ImageDataset, SignalDataset, load_images, load_signals
from spikediff.errors import UserError
from spikediff.training.recipe import DataRecipe

_OF_IMAGES = ("channels", "resize_filter", "horizontal_flip", "hold_out")


def build_dataset(recipe: DataRecipe, split: str = "train") -> ImageDataset:
    """Read the images that a recipe names.

    Raises:
        UserError: There are no such images, or the recipe sets what only signals have.
    """
    if recipe.signal_range is not None:
        raise UserError(
            "data.signal_range: images have none; leave it out, or train a network of signals "
            "(model.network: spiking_unet_1d)"
        )
    return load_images(
        recipe.dataset,
        split,
        image_size=recipe.image_size,
        channels=recipe.channels,
        data_dir=recipe.data_dir,
        resize_filter=recipe.resize_filter,
        held_out=False if recipe.hold_out and split == "train" else None,
    )


def signal_dataset(data: DataRecipe) -> SignalDataset:
    """Return the windows of the recording that a recipe names.

    Args:
        data: The recipe's `data:` section.

    Raises:
        UserError: There is no such recording, the recipe sets what only images have, or it does
            not say which values the network sees as -1 and 1.
    """
    for key in _OF_IMAGES:
        if (value := getattr(data, key)) != getattr(DataRecipe(), key):
            raise UserError(f"data.{key} = {value!r}: signals have none; leave it out")
    windows = load_signals(data.dataset, length=data.image_size, data_dir=data.data_dir)
    if data.signal_range is None:
        low, high = (float(value) for value in windows.recording.aminmax())
        raise UserError(
            f"data.signal_range: say which values the network sees as -1 and 1; {data.dataset} "
            f"runs from {low:.4g} to {high:.4g}"
        )
    return windows
