"""MNIST and its descendants: 28x28 grey images in IDX or npz files."""

import gzip
import io
import math
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spikediff.data.arrays import candidate_folders, find_first, missing_files, read_npz
from spikediff.data.dataset import DatasetSpec, Pictures, labelled_pixels
from spikediff.errors import UserError, brief
from spikediff.files.reading import GIB, read_regular

Kind = Literal["images", "labels"]


@dataclass(frozen=True)
class IdxLayout:
    """An IDX file of images and one of labels, each plain or gzipped."""

    train: str = "train"  # prefix of the names of training files
    test: str = "t10k"

    def names(self, kind: Kind, split: str) -> list[str]:
        """Return the usual names of a file."""
        stem = f"{self.train if split == 'train' else self.test}-{kind}"
        names = [f"{stem}{mark}idx{_NDIM[kind]}-ubyte" for mark in "-."]
        return [f"{name}{suffix}" for name in names for suffix in ("", ".gz")]

    def read(self, path: Path, kind: Kind, split: str) -> NDArray[Any]:
        """Read images uint8 `[N, H, W]`, or labels uint8 `[N]`."""
        return read_idx(path, _NDIM[kind])


_NDIM = {"images": 3, "labels": 1}


@dataclass(frozen=True)
class NpzLayout:
    """Arrays in npz files; `{split}` in a name or key is replaced by the split."""

    images: tuple[str, str]  # name of the file and key of the array
    labels: tuple[str, str]

    def names(self, kind: Kind, split: str) -> list[str]:
        """Return the name of a file."""
        return [self._of(kind, split)[0]]

    def read(self, path: Path, kind: Kind, split: str) -> NDArray[Any]:
        """Read images uint8 `[N, H, W]`, or labels, integers `[N]`."""
        return read_npz(path, [self._of(kind, split)[1]])[0]

    def _of(self, kind: Kind, split: str) -> list[str]:
        parts = self.images if kind == "images" else self.labels
        return [part.format(split=split) for part in parts]


@dataclass(frozen=True)
class HandwritingSet:
    """A member of the family; call it with `(data_dir, split)` to read its images."""

    name: str  # also the name of its folder
    class_names: tuple[str, ...]
    needs: str  # the files in words
    layouts: tuple[IdxLayout | NpzLayout, ...]  # possible layouts; the first found is read
    full_train: int = 60_000  # training images of the complete set
    first_label: int = 0  # the smallest label in the files
    transposed: bool = False  # whether rows and columns are exchanged in the files

    def __call__(self, data_dir: Path | None, split: str) -> Pictures:
        """Read one split, upright, with labels from 0."""
        path, images, labels = self._load(data_dir, split)
        if self.transposed and images.ndim == 3:
            images = np.ascontiguousarray(images.transpose(0, 2, 1))
        pictures = labelled_pixels(images, labels, self.class_names, str(path), self.first_label)
        if split == "train" and len(pictures) < self.full_train:
            found = f"{len(pictures):,} of {self.full_train:,} training images"
            warnings.warn(f"{self.name}: {path} holds only {found}", stacklevel=3)
        return pictures

    def row(self, summary: str, **options: Any) -> DatasetSpec:
        """Return the row of the table of data sets."""
        return DatasetSpec(summary, 1, 28, self.needs, self, **options)

    def _load(self, data_dir: Path | None, split: str) -> tuple[Path, NDArray[Any], NDArray[Any]]:
        """Return the path of the image file, and the images and labels as stored."""
        folders = self._folders(data_dir)
        for folder in folders:
            for layout in self.layouts:
                images = find_first([folder], layout.names("images", split))
                if images is None:
                    continue
                looked_for = layout.names("labels", split)
                labels = find_first([folder], looked_for)
                if labels is None:
                    raise UserError(
                        f"{self.name}: {images} has no labels beside it (looked for "
                        f"{', '.join(looked_for)}); put the label file there"
                    )
                pixels = layout.read(images, "images", split)
                return images, pixels, layout.read(labels, "labels", split)
        names = (name for layout in self.layouts for name in layout.names("images", split))
        raise missing_files(self.name, split, names, folders, self.needs)

    def _folders(self, data_dir: Path | None) -> tuple[Path, ...]:
        """List the folders to search, except a folder named after another member."""
        found = candidate_folders(self.name, data_dir, self.needs)
        # MNIST, Fashion-MNIST and KMNIST share file names; only the folder distinguishes them.
        own = tuple(path for path in found if path.name == self.name or path.name not in FAMILY)
        if not own:
            raise UserError(
                f"{self.name}: {data_dir} is named after another data set with the same file "
                f"names; pass the folder that holds {self.name}/"
            )
        return own


FAMILY = {"mnist", "fashion-mnist", "kmnist", "emnist-letters"}
_IDX_NEEDS = "train-images-idx3-ubyte(.gz), t10k-images-idx3-ubyte(.gz) and their labels"

MNIST = HandwritingSet(
    name="mnist",
    class_names=tuple("0123456789"),
    needs=f"{_IDX_NEEDS}, or mnist.npz",
    layouts=(IdxLayout(), NpzLayout(("mnist.npz", "x_{split}"), ("mnist.npz", "y_{split}"))),
).row(
    "70,000 handwritten digits, 28x28 grey",
    licence="CC BY-SA 3.0",
    hub_id="ylecun/mnist",
)

_CLOTHES = "T-shirt/top,trouser,pullover,dress,coat,sandal,shirt,sneaker,bag,ankle boot"
FASHION_MNIST = HandwritingSet(
    name="fashion-mnist",
    class_names=tuple(_CLOTHES.split(",")),
    needs=_IDX_NEEDS,
    layouts=(IdxLayout(),),
).row(
    "70,000 pieces of clothing in 10 classes, 28x28 grey",
    horizontal_flip=False,  # the papers train on it without flips
    licence="MIT",
    hub_id="zalando-datasets/fashion_mnist",
)

_FIRST = "kmnist-{split}-first7011.npz"
KMNIST = HandwritingSet(
    name="kmnist",
    class_names=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    needs=f"{_IDX_NEEDS}, or kmnist-train-imgs.npz, kmnist-test-imgs.npz and their labels",
    layouts=(
        IdxLayout(),
        NpzLayout(("kmnist-{split}-imgs.npz", "arr_0"), ("kmnist-{split}-labels.npz", "arr_0")),
        NpzLayout((_FIRST, "images"), (_FIRST, "labels")),
    ),
).row("70,000 cursive Japanese characters in 10 classes, 28x28 grey", licence="CC BY-SA 4.0")

EMNIST_LETTERS = HandwritingSet(
    name="emnist-letters",
    class_names=tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    needs="emnist-letters-{train,test}-images-idx3-ubyte(.gz) and their labels",
    layouts=(IdxLayout("emnist-letters-train", "emnist-letters-test"),),
    full_train=124_800,
    first_label=1,
    transposed=True,
).row("145,600 handwritten letters in 26 classes, 28x28 grey, upright")


MOST_IDX_BYTES = 4 * GIB  # size of the pixels of a split

UNSIGNED_BYTE = 0x08  # the type code of uint8, the only one that image sets use


def read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, plain or gzipped, according to its header.

    The header is `00 00 08 ndim`, then `ndim` big-endian 32-bit extents; the bytes follow.

    Args:
        path: The file; gzip is recognised by its first bytes, not by its name.
        ndim: 1 for labels, 3 for images.
    """
    start = 4 + 4 * ndim
    content = read_regular(path, MOST_IDX_BYTES)
    zipped = content.startswith(b"\x1f\x8b")
    if zipped:
        header = _decompressed(content, start, path)
        declared = min(math.prod(_header(header, ndim, path)), MOST_IDX_BYTES)
        content = _decompressed(content, start + declared + 1, path)
    shape = _header(content, ndim, path)
    declared, present = math.prod(shape), len(content) - start
    if present != declared:
        more = "or more " if zipped and present > declared else ""
        raise UserError(
            f"{path}: the header declares {declared} bytes {list(shape)} but {present} {more}are "
            "present; fetch the file again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _decompressed(content: bytes, most: int, path: Path) -> bytes:
    """Return at most `most` bytes of a gzip file, which might unpack without end."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            return file.read(most)
    except (EOFError, OSError, zlib.error, struct.error) as error:
        reason = brief(error)
        raise UserError(f"{path}: damaged gzip ({reason}); fetch the file again") from None


def _header(content: bytes, ndim: int, path: Path) -> tuple[int, ...]:
    """Return the extents after checking the magic number."""
    magic = bytes((0, 0, UNSIGNED_BYTE, ndim))
    if content[:4] != magic:
        found = content[:4].hex() or "nothing"
        raise UserError(
            f"{path}: not an IDX file of {ndim} dimensions (starts with {found}, expected "
            f"{magic.hex()}); images and labels may be swapped, or fetch the file again"
        )
    if len(content) < 4 + 4 * ndim:
        raise UserError(f"{path}: ends inside its header; fetch the file again")
    return struct.unpack_from(f">{ndim}I", content, 4)
