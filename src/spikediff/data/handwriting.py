"""MNIST and its descendants: 28x28 grey images in IDX or npz files."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikediff.data.arrays import candidate_folders, find_first, missing_files, read_idx, read_npz
from spikediff.data.sources import PixelArray, labelled_pixels
from spikediff.errors import UserError


@dataclass(frozen=True)
class IdxLayout:
    """An IDX file of images and one of labels, each plain or gzipped.

    Args:
        train: how the names of the training files begin.
        test: how the names of the test files begin.
    """

    train: str = "train"
    test: str = "t10k"

    def image_names(self, split: str) -> tuple[str, ...]:
        """Return the usual names of the image file."""
        return self._names(split, "images", 3)

    def label_names(self, split: str) -> tuple[str, ...]:
        """Return the usual names of the label file."""
        return self._names(split, "labels", 1)

    def read_images(self, path: Path, split: str) -> NDArray[Any]:
        """Read uint8 `[N, H, W]`."""
        return read_idx(path, ndim=3)

    def read_labels(self, path: Path, split: str) -> NDArray[Any]:
        """Read uint8 `[N]`."""
        return read_idx(path, ndim=1)

    def _names(self, split: str, kind: str, ndim: int) -> tuple[str, ...]:
        stem = f"{self.train if split == 'train' else self.test}-{kind}"
        names = (f"{stem}{mark}idx{ndim}-ubyte" for mark in "-.")
        return tuple(f"{name}{suffix}" for name in names for suffix in ("", ".gz"))


@dataclass(frozen=True)
class NpzLayout:
    """Arrays in npz files; `{split}` in a name or key stands for the split.

    Args:
        images: name of the file with the images.
        image_key: the array's name.
        labels: name of the file with the labels.
        label_key: the array's name.
    """

    images: str
    image_key: str
    labels: str
    label_key: str

    def image_names(self, split: str) -> tuple[str, ...]:
        """Return the name of the image file."""
        return (self.images.format(split=split),)

    def label_names(self, split: str) -> tuple[str, ...]:
        """Return the name of the label file."""
        return (self.labels.format(split=split),)

    def read_images(self, path: Path, split: str) -> NDArray[Any]:
        """Read uint8 `[N, H, W]`."""
        return read_npz(path, [self.image_key.format(split=split)])[0]

    def read_labels(self, path: Path, split: str) -> NDArray[Any]:
        """Read integers `[N]`."""
        return read_npz(path, [self.label_key.format(split=split)])[0]


@dataclass(frozen=True)
class HandwritingSet:
    """One member of the family, and its reader: call it with `(data_dir, split)`.

    Args:
        name: name of the data set and of its folder.
        class_names: one name per class.
        needs: the files in words.
        layouts: the ways in which the files may lie, the first found is read.
        full_train: number of training images of the complete set.
        first_label: the smallest label in the files.
        transposed: whether the files hold the images with rows and columns exchanged.
    """

    name: str
    class_names: tuple[str, ...]
    needs: str
    layouts: tuple[IdxLayout | NpzLayout, ...]
    full_train: int = 60_000
    first_label: int = 0
    transposed: bool = False

    def __call__(self, data_dir: Path | None, split: str) -> PixelArray:
        """Read one split.

        Args:
            data_dir: the folder with the files, or the one above it.
            split: `train` or `test`.

        Returns:
            The pictures, upright, with labels from 0.

        Raises:
            UserError: missing or damaged files.
        """
        images_path, images, labels = self._load(data_dir, split)
        if self.transposed and images.ndim == 3:
            images = np.ascontiguousarray(images.transpose(0, 2, 1))
        source = labelled_pixels(
            images, labels, self.class_names, str(images_path), self.first_label
        )
        if split == "train" and len(source) < self.full_train:
            found = f"{len(source):,} of {self.full_train:,} training images"
            warnings.warn(f"{self.name}: {images_path} holds only {found}", stacklevel=3)
        return source

    def _load(self, data_dir: Path | None, split: str) -> tuple[Path, NDArray[Any], NDArray[Any]]:
        """Return the image file's path, the images and the labels as stored."""
        folders = self._folders(data_dir)
        for folder in folders:
            for layout in self.layouts:
                images = find_first([folder], layout.image_names(split))
                if images is not None:
                    labels = self._labels_beside(images, layout, split)
                    images_read = layout.read_images(images, split)
                    return images, images_read, layout.read_labels(labels, split)
        names = (name for layout in self.layouts for name in layout.image_names(split))
        raise missing_files(self.name, split, names, folders, self.needs)

    def _folders(self, data_dir: Path | None) -> tuple[Path, ...]:
        """List where to look, leaving out a folder that is named after another member."""
        found = candidate_folders(self.name, data_dir, self.needs)
        # MNIST, Fashion-MNIST and KMNIST share their file names; only the folder tells.
        own = tuple(path for path in found if path.name == self.name or path.name not in FAMILY)
        if not own:
            raise UserError(
                f"{self.name}: {data_dir} is named after another data set with the same file "
                f"names; pass the folder that holds {self.name}/"
            )
        return own

    def _labels_beside(self, images: Path, layout: IdxLayout | NpzLayout, split: str) -> Path:
        """Find the labels in the folder of the images."""
        names = layout.label_names(split)
        labels = find_first([images.parent], names)
        if labels is None:
            looked_for = ", ".join(names)
            raise UserError(
                f"{self.name}: {images} has no labels beside it (looked for {looked_for}); "
                "put the label file there"
            )
        return labels


_IDX_NEEDS = "train-images-idx3-ubyte(.gz), t10k-images-idx3-ubyte(.gz) and their labels"

MNIST = HandwritingSet(
    name="mnist",
    class_names=tuple("0123456789"),
    needs=f"{_IDX_NEEDS}, or mnist.npz",
    layouts=(IdxLayout(), NpzLayout("mnist.npz", "x_{split}", "mnist.npz", "y_{split}")),
)

FASHION_MNIST = HandwritingSet(
    name="fashion-mnist",
    class_names=(
        "T-shirt/top",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    ),
    needs=_IDX_NEEDS,
    layouts=(IdxLayout(),),
)

KMNIST = HandwritingSet(
    name="kmnist",
    class_names=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    needs=f"{_IDX_NEEDS}, or kmnist-train-imgs.npz, kmnist-test-imgs.npz and their labels",
    layouts=(
        IdxLayout(),
        NpzLayout("kmnist-{split}-imgs.npz", "arr_0", "kmnist-{split}-labels.npz", "arr_0"),
        NpzLayout(
            "kmnist-{split}-first7011.npz", "images", "kmnist-{split}-first7011.npz", "labels"
        ),
    ),
)

EMNIST_LETTERS = HandwritingSet(
    name="emnist-letters",
    class_names=tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    needs="emnist-letters-{train,test}-images-idx3-ubyte(.gz) and their labels",
    layouts=(IdxLayout("emnist-letters-train", "emnist-letters-test"),),
    full_train=124_800,
    first_label=1,
    transposed=True,
)

FAMILY: frozenset[str] = frozenset(
    member.name for member in (MNIST, FASHION_MNIST, KMNIST, EMNIST_LETTERS)
)
