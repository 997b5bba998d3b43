"""Data sets: their table, the function that loads them, and the conversion of pixel ranges.

A data set is a row of `DATASETS`, a folder of images or a name on the Hugging Face hub. For all of
them, `load_images` returns uint8 images of one size, and `to_model_range` converts these for
models. Signals have their own table and function: `spikediff.data.signals`.
"""

from dataclasses import replace
from pathlib import Path

from spikediff.data.celeba import CELEBA
from spikediff.data.cifar import CIFAR10, LOSSLESS_SUBSET
from spikediff.data.dataset import DatasetSpec, ImageDataset, Pictures, part_indices
from spikediff.data.digits import DIGITS
from spikediff.data.folder import find_data, like_first
from spikediff.data.handwriting import EMNIST_LETTERS, FASHION_MNIST, KMNIST, MNIST
from spikediff.data.lsun import LSUN_BEDROOM
from spikediff.data.pixels import (
    change_range,
    from_unit_range,
    random_flip,
    to_model_range,
    to_uint8,
    to_unit_range,
)
from spikediff.data.resize import RESIZE_FILTERS, Resize
from spikediff.data.signals import SIGNALS, SignalDataset, SignalSpec, load_signals
from spikediff.errors import UserError, check_known
from spikediff.progress import at_work

__all__ = [
    "DATASETS",
    "RESIZE_FILTERS",
    "SIGNALS",
    "DatasetSpec",
    "ImageDataset",
    "Pictures",
    "Resize",
    "SignalDataset",
    "SignalSpec",
    "change_range",
    "find_row",
    "from_unit_range",
    "load_images",
    "load_signals",
    "random_flip",
    "read_pictures",
    "to_model_range",
    "to_uint8",
    "to_unit_range",
]

DATASETS: dict[str, DatasetSpec] = {
    "digits": DIGITS,
    "mnist": MNIST,
    "fashion-mnist": FASHION_MNIST,
    "kmnist": KMNIST,
    "emnist-letters": EMNIST_LETTERS,
    "cifar10": CIFAR10,
    "cifar10-lossless-subset": LOSSLESS_SUBSET,
    "celeba": CELEBA,
    "lsun-bedroom": LSUN_BEDROOM,
}


def load_images(
    name: str,
    split: str = "train",
    *,
    image_size: int | None = None,
    channels: int | None = None,
    data_dir: Path | str | None = None,
    resize_filter: str = "bilinear",
    held_out: bool | None = None,
) -> ImageDataset:
    """Load one split of a data set, as uint8 images of one size.

    Images are cropped to the centred square, resized, and converted to the number of channels.

    Args:
        name: A key of `DATASETS`; a folder of images, as a path or `folder:PATH`; or
            `hf:DATASET_ID` for the Hugging Face hub (needs the package datasets).
        split: `train` or `test`; CelebA also has `valid`, and data sets of the hub have their own.
        image_size: Side of the images in pixels; None keeps the data set's own.
        channels: 1 (luma of colour sets) or 3 (repeats grey); None keeps the data set's own.
        data_dir: Folder with the files, or with a subfolder `name` of them; the cache for `hf:`.
        resize_filter: A key of `RESIZE_FILTERS`; all but `nearest` antialias.
        held_out: True keeps only the tenth of the split that is held out for choosing a checkpoint
            or a guidance value, False only the rest, None everything. The division never changes.

    Example:
        >>> digits = load_images("digits", "test", image_size=16)
        >>> image, label = digits[0]
        >>> image.shape, image.dtype
        (torch.Size([1, 16, 16]), torch.uint8)
    """
    row = find_row(name, split)
    size = row.native_size if image_size is None else image_size
    depth = row.channels if channels is None else channels
    resize = Resize(size, depth, row.crop, resize_filter)
    with at_work(f"reading {name}/{split}"):
        pictures = _read(row, split, data_dir)
        if name not in DATASETS:
            pictures, size, depth = like_first(pictures, image_size, channels)
            resize = replace(resize, size=size, channels=depth)
        if held_out is not None:
            kept = part_indices(len(pictures), held_out, pictures.origin)
            pictures = pictures.select(kept)
        flip = row.horizontal_flip
        return ImageDataset(name, split, pictures, resize, horizontal_flip=flip)


def find_row(name: str, split: str = "train") -> DatasetSpec:
    """Return the row of a data set by any name that `load_images` accepts."""
    if name in SIGNALS:
        raise UserError(
            f"{name}: is a signal, not images; only spiking_unet_1d trains on it (model.network)"
        )
    row = DATASETS.get(name) or find_data(name, split, known=DATASETS)
    check_known("split", split, row.splits, f"{name}: ")
    return row


def read_pictures(name: str, split: str = "train", data_dir: Path | str | None = None) -> Pictures:
    """Return the pictures of a split as stored, in their own sizes."""
    row = find_row(name, split)
    with at_work(f"reading {name}/{split}"):
        return _read(row, split, data_dir)


def _read(row: DatasetSpec, split: str, data_dir: Path | str | None) -> Pictures:
    return row.read(None if data_dir is None else Path(data_dir).expanduser(), split)
