"""The data of a run, and the cache folder for features."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikediff.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from spikediff.data import ImageDataset


def find_dataset(
    source: Path, dataset: str | None, data_dir: Path | None
) -> tuple[str, Path | None]:
    """Return a data set and its folder: as given, or those that the run was trained on."""
    if (data := recipe_data(source)) is not None:
        dataset = dataset or data.dataset
        data_dir = data_dir or (Path(data.data_dir) if data.data_dir else None)
    if dataset is None:
        there = source.exists() or str(source).startswith("data:")
        fault = "does not name a data set;" if there else "no such folder here; for one on the Hub,"
        raise UserError(f"{source}: {fault} give --dataset, for example mnist")
    return dataset, data_dir


def recipe_data(source: Path) -> Any:
    """Return the data section of a run's recipe; None if there is no recipe."""
    if not (source / "recipe.yaml").is_file():
        return None
    from spikediff.training.recipe import load_run_recipe

    return load_run_recipe(source).data


def network_shape(pipe: Any) -> tuple[int, int]:
    """Return the size and channels of the images that a pipeline generates."""
    network = pipe.components.get("unet") or pipe.components.get("vqvae") or pipe.vae
    size = network.config.sample_size
    if not isinstance(size, int):
        raise UserError(
            f"makes images of {size[0]}x{size[1]} pixels; those of data sets are square"
        )
    return size, network.config.in_channels


def images_for(
    pipe: Any, dataset: str, split: str, data_dir: Path | None, held_out: bool | None = None
) -> "ImageDataset":
    """Return a split with the size and channels of the images that a pipeline generates."""
    from spikediff.data import load_images

    size, channels = network_shape(pipe)
    return load_images(
        dataset, split, image_size=size, channels=channels, data_dir=data_dir, held_out=held_out
    )


def training_images(
    pipe: Any, dataset: str, data_dir: Path | None, count: int, seed: int
) -> "Tensor":
    """Return up to `count` training images in the denoiser's range: [N, C, H, W] in [-1, 1].

    The seed determines the choice, which excludes the held-out tenth.
    """
    import torch

    from spikediff.data import to_model_range

    images = images_for(pipe, dataset, "train", data_dir, held_out=False)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return to_model_range(torch.stack([images[int(i)][0] for i in order[:count]]))


def cache_folder(given: Path | None) -> Path:
    """Return the folder for features and classifiers: as given, $SPIKEDIFF_CACHE, or default."""
    return (given or Path(os.environ.get("SPIKEDIFF_CACHE", "~/.cache/spikediff"))).expanduser()
