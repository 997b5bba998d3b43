"""Data sets: one table of them, one function to load them, one place for the range.

A data set is a row of `DATASETS`, a folder of images or a name on the Hugging Face hub; whatever
it is, `load_images` returns uint8 images of one size. Models see them through `to_model_range`.
Signals are another kind, with a table and a function of their own: `spikediff.data.signals`.
"""

from pathlib import Path

from spikediff.data.celeba import CROP as _CELEBA_CROP
from spikediff.data.celeba import NEEDS as _CELEBA_NEEDS
from spikediff.data.celeba import read_celeba
from spikediff.data.cifar import LOSSLESS_NEEDS as _LOSSLESS_NEEDS
from spikediff.data.cifar import NEEDS as _CIFAR_NEEDS
from spikediff.data.cifar import read_cifar10, read_cifar10_lossless
from spikediff.data.dataset import ImageDataset
from spikediff.data.digits import read_digits
from spikediff.data.folder import alike, unlisted_row
from spikediff.data.handwriting import EMNIST_LETTERS, FASHION_MNIST, KMNIST, MNIST
from spikediff.data.lsun import NEEDS as _LSUN_NEEDS
from spikediff.data.lsun import read_lsun_bedroom
from spikediff.data.pixels import change_range, random_flip, to_model_range, to_uint8
from spikediff.data.resize import RESIZE_FILTERS, Fit
from spikediff.data.signals import SIGNALS, SignalDataset, SignalSpec, load_signals
from spikediff.data.sources import DatasetSpec, PictureSource, Reader, take_part
from spikediff.errors import UserError
from spikediff.progress import at_work

__all__ = [
    "DATASETS",
    "RESIZE_FILTERS",
    "SIGNALS",
    "DatasetSpec",
    "Fit",
    "ImageDataset",
    "PictureSource",
    "Reader",
    "SignalDataset",
    "SignalSpec",
    "change_range",
    "load_images",
    "load_signals",
    "random_flip",
    "to_model_range",
    "to_uint8",
]

DATASETS: dict[str, DatasetSpec] = {
    "digits": DatasetSpec(
        summary="1,797 handwritten digits, 8x8 grey; comes with scikit-learn, no download",
        channels=1,
        native_size=8,
        needs="",
        read=read_digits,
        licence="CC BY 4.0 (UCI Machine Learning Repository)",
    ),
    "mnist": DatasetSpec(
        summary="70,000 handwritten digits, 28x28 grey",
        channels=1,
        native_size=28,
        needs=MNIST.needs,
        read=MNIST,
        licence="CC BY-SA 3.0",
        hub_id="ylecun/mnist",
    ),
    "fashion-mnist": DatasetSpec(
        summary="70,000 pieces of clothing in 10 classes, 28x28 grey",
        channels=1,
        native_size=28,
        needs=FASHION_MNIST.needs,
        read=FASHION_MNIST,
        horizontal_flip=False,  # the papers train on it without flips
        licence="MIT",
        hub_id="zalando-datasets/fashion_mnist",
    ),
    "kmnist": DatasetSpec(
        summary="70,000 cursive Japanese characters in 10 classes, 28x28 grey",
        channels=1,
        native_size=28,
        needs=KMNIST.needs,
        read=KMNIST,
        licence="CC BY-SA 4.0",
    ),
    "emnist-letters": DatasetSpec(
        summary="145,600 handwritten letters in 26 classes, 28x28 grey, upright",
        channels=1,
        native_size=28,
        needs=EMNIST_LETTERS.needs,
        read=EMNIST_LETTERS,
    ),
    "cifar10": DatasetSpec(
        summary="60,000 photographs in 10 classes, 32x32 RGB",
        channels=3,
        native_size=32,
        needs=_CIFAR_NEEDS,
        read=read_cifar10,
        horizontal_flip=True,
        hub_id="uoft-cs/cifar10",
    ),
    "cifar10-lossless-subset": DatasetSpec(
        summary="the first 4,000 training and 1,000 test images of CIFAR-10, 32x32 RGB",
        channels=3,
        native_size=32,
        needs=_LOSSLESS_NEEDS,
        read=read_cifar10_lossless,
        horizontal_flip=True,
    ),
    "celeba": DatasetSpec(
        summary="202,599 faces, RGB; the centred 148x148 square resized to 64x64",
        channels=3,
        native_size=64,
        needs=_CELEBA_NEEDS,
        read=read_celeba,
        splits=("train", "valid", "test"),
        crop=_CELEBA_CROP,
        horizontal_flip=True,
        licence="non-commercial research only",
    ),
    "lsun-bedroom": DatasetSpec(
        summary="3,033,342 bedrooms, RGB; the centred square resized to 64x64",
        channels=3,
        native_size=64,
        needs=_LSUN_NEEDS,
        read=read_lsun_bedroom,
        horizontal_flip=True,
    ),
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

    Images are cropped to the centred square, then resized, then brought to the channels.

    Args:
        name: a key of `DATASETS`; a folder of images, as a path or `folder:PATH`; or
            `hf:DATASET_ID` for the Hugging Face hub (needs `pip install 'spikediff[data]'`).
        split: `train` or `test`; CelebA also has `valid`, the hub has what it has.
        image_size: side of the images in pixels; None keeps the data set's own.
        channels: 1 (luma of colour sets) or 3 (repeats grey); None keeps the data set's own.
        data_dir: folder with the files, or with a subfolder `name` of them; the cache for `hf:`.
        resize_filter: a key of `RESIZE_FILTERS`; all but `nearest` antialias.
        held_out: True keeps only the tenth of the split that is set aside for choosing a
            checkpoint or a guidance value, False only the rest, None everything. Which image
            belongs where is fixed for ever.

    Returns:
        The data set.

    Raises:
        UserError: an unknown name, split or option; missing or damaged files.

    Example:
        >>> digits = load_images("digits", "test", image_size=16)
        >>> image, label = digits[0]
        >>> image.shape, image.dtype
        (torch.Size([1, 16, 16]), torch.uint8)
    """
    if name in SIGNALS:
        raise UserError(
            f"{name}: is a signal, not images; a network of signals takes it "
            "(model.network: spiking_unet_1d)"
        )
    folder = None if data_dir is None else Path(data_dir).expanduser()
    row = DATASETS.get(name) or unlisted_row(name, split, folder, known=DATASETS)
    _check_split(name, split, row.splits)
    fit = Fit(
        size=row.native_size if image_size is None else image_size,
        channels=row.channels if channels is None else channels,
        crop=row.crop,
        resize_filter=resize_filter,
    )
    with at_work(f"reading {name}/{split}"):
        source = row.read(folder, split)
        if name not in DATASETS:
            source = alike(source, row, image_size, channels)
        flip = row.horizontal_flip
        return ImageDataset(name, split, take_part(source, held_out), fit, horizontal_flip=flip)


def _check_split(name: str, split: str, splits: tuple[str, ...]) -> None:
    """Refuse a split that the data set does not have.

    Args:
        name: name of the data set.
        split: the split that was asked for.
        splits: those it has.

    Raises:
        UserError: it has no such split.
    """
    if split not in splits:
        raise UserError(f"{name}: unknown split {split!r}; choose from {', '.join(splits)}")
