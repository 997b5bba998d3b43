"""Finding the data of a run, and the folder where features of it are kept."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikediff.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


def find_dataset(
    source: Path, dataset: str | None, data_dir: Path | None
) -> tuple[str, Path | None]:
    """Return a data set and its folder: as given, else as the run was trained.

    Args:
        source: Perhaps a run folder, with a recipe.
        dataset: What was typed, or None.
        data_dir: What was typed, or None.

    Raises:
        UserError: Neither says which data set.
    """
    recipe_file = source / "recipe.yaml"
    if recipe_file.is_file():
        from spikediff.training.recipe import load_run_recipe

        data = load_run_recipe(source).data
        dataset = dataset or data.dataset
        data_dir = data_dir or (Path(data.data_dir) if data.data_dir else None)
    if dataset is None:
        raise UserError(f"{source}: says no data set; give --dataset, for example mnist")
    return dataset, data_dir


def recipe_shape(source: Path) -> tuple[int | None, int | None]:
    """Return the size and channels that a run's recipe reads its images at; None where it does not.

    Args:
        source: Perhaps a run folder, with a recipe.
    """
    if not (source / "recipe.yaml").is_file():
        return None, None
    from spikediff.training.recipe import load_run_recipe

    data = load_run_recipe(source).data
    return data.image_size, data.channels


def network_shape(pipe: Any) -> tuple[int, int]:
    """Return the size and channels of the images that a pipeline makes."""
    network = pipe.components.get("unet") or pipe.components.get("vqvae") or pipe.vae
    return network.config.sample_size, network.config.in_channels


def training_images(
    pipe: Any, dataset: str, data_dir: Path | None, count: int, seed: int
) -> "Tensor":
    """Return training images as a pipeline's denoiser sees them, less the held-out tenth.

    Args:
        pipe: A pipeline.
        dataset: Name of the data set.
        data_dir: Folder that holds it.
        count: How many, at most.
        seed: Which ones.

    Returns:
        Images in [-1, 1], [N, C, H, W].
    """
    import torch

    from spikediff.data import load_images, to_model_range

    image_size, channels = network_shape(pipe)
    images = load_images(
        dataset,
        image_size=image_size,
        channels=channels,
        data_dir=data_dir,
        held_out=False,
    )
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return to_model_range(torch.stack([images[int(i)][0] for i in order[:count]]))


def trained_on_held_out(source: Path) -> bool:
    """Whether a run's recipe says that it has seen the held-out tenth of the training split."""
    recipe_file = source / "recipe.yaml"
    if not recipe_file.is_file():
        return False
    from spikediff.training.recipe import load_run_recipe

    return not load_run_recipe(source).data.hold_out


def cache_folder(given: Path | None) -> Path:
    """Return the folder for features and classifiers: given, $SPIKEDIFF_CACHE or the user's."""
    return (given or Path(os.environ.get("SPIKEDIFF_CACHE", "~/.cache/spikediff"))).expanduser()
