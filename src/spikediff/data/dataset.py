"""Pictures as readers return them, the rows of the table, and data sets of images of one size."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from spikediff.data.resize import Resize, resize_picture, resize_pixels
from spikediff.errors import UserError

NO_LABEL = -1


class PictureShape(NamedTuple):
    """Width and height of a picture in pixels, and whether it is stored as grey."""

    width: int
    height: int
    grey: bool

    @property
    def side(self) -> int:
        """The shorter side, which is the side of the largest square in the picture."""
        return min(self.width, self.height)


@dataclass(frozen=True, eq=False)
class Pictures(Dataset[Image.Image]):
    """The pictures of one split as stored, mode `L` or `RGB`, in their own sizes."""

    # The source of each: a path, a key; or all pixels, uint8 [N, H, W] or [N, H, W, 3].
    items: Sequence[Any] | NDArray[np.uint8]
    read: Callable[[Any], Image.Image]  # reads the picture of an item
    name: Callable[[Any], str]  # names an item, for error messages
    origin: str  # the files read, for reports
    labels: Tensor | None = None  # int64 [N]; None if the set has no classes
    class_names: tuple[str, ...] = ()  # in the order of the labels
    read_shape: Callable[[Any], PictureShape] | None = None  # None if it saves no time

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Image.Image:
        return self.read(self.items[index])

    def shape(self, index: int) -> PictureShape:
        """Return the shape of picture `index`, decoding it only if necessary."""
        if self.read_shape is not None:
            return self.read_shape(self.items[index])
        picture = self[index]
        return PictureShape(*picture.size, grey=picture.mode == "L")

    def where(self, index: int) -> str:
        """Name picture `index` in an error message."""
        return self.name(self.items[index])

    def select(self, indices: Sequence[int]) -> "Pictures":
        """Return only the pictures at these indices, in this order."""
        of_all = self.items
        items = of_all[indices] if isinstance(of_all, np.ndarray) else [of_all[i] for i in indices]
        labels = None if self.labels is None else self.labels[torch.tensor(indices)]
        return replace(self, items=items, labels=labels)


def pixel_array(
    pixels: NDArray[np.uint8],
    origin: str,
    labels: Tensor | None = None,
    class_names: tuple[str, ...] = (),
) -> Pictures:
    """Return pictures of one size from memory, uint8 `[N, H, W]` or `[N, H, W, 3]`."""
    return Pictures(pixels, Image.fromarray, lambda _: origin, origin, labels, class_names)


def labelled_pixels(
    pixels: NDArray[Any],
    labels: NDArray[Any],
    class_names: tuple[str, ...],
    origin: str,
    first_label: int = 0,
) -> Pictures:
    """Combine images and labels after checking that they belong together.

    Args:
        pixels: uint8 `[N, H, W]` or `[N, H, W, 3]`, N at least 1.
        labels: Integers `[N]`, `first_label` to `first_label` + K - 1.
        class_names: K names.
        origin: The files, for errors and reports.
        first_label: The label of the first class.
    """
    shape_fits = pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[3] == 3)
    if pixels.dtype != np.uint8 or not shape_fits or 0 in pixels.shape:
        found = f"{pixels.dtype} {list(pixels.shape)}"
        raise UserError(
            f"{origin}: images are {found}; expected uint8 [N, H, W] or [N, H, W, 3]; "
            "fetch the file again"
        )
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        found = f"{labels.dtype} {list(labels.shape)}"
        raise UserError(f"{origin}: labels are {found}; expected integers [N]; fetch it again")
    if len(labels) != len(pixels):
        raise UserError(
            f"{origin}: {len(pixels)} images but {len(labels)} labels; "
            "fetch both files of the same split again"
        )
    labels = labels.astype(np.int64) - first_label
    if labels.min() < 0 or labels.max() >= len(class_names):
        raise UserError(
            f"{origin}: labels run from {labels.min()} to {labels.max()}, outside the "
            f"{len(class_names)} classes; is this the right data set?"
        )
    return pixel_array(pixels, origin, torch.from_numpy(labels), class_names)


def stable_hash(key: str) -> int:
    """Return the first 64 bits of a text's SHA-256.

    Splits use this hash instead of a random generator, whose output may change between releases.

    Example:
        >>> stable_hash("cat.png") % 10
        0
    """
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()[:8])


def part_indices(count: int, held_out: bool, where: str) -> list[int]:
    """Return the indices of the held-out tenth of `count` images, or of the other images.

    The choice depends on the index alone, so it never changes.

    Example:
        >>> part_indices(20, held_out=True, where="example")
        [4, 14]
    """
    kept = [i for i in range(count) if (stable_hash(f"held out {i}") % 10 == 0) == held_out]
    if not kept:
        part = "held-out tenth" if held_out else "rest beside the held-out tenth"
        raise UserError(f"{where}: {count} images leave no {part}; add images")
    return kept


@dataclass(frozen=True)
class DatasetSpec:
    """One row of `DATASETS`."""

    summary: str  # description of the images, in one line
    channels: int  # 1 (grey) or 3 (RGB), as stored
    native_size: int  # side in pixels if no `image_size` is given
    needs: str  # the files required in the data folder, in words; empty if none
    read: Callable[[Path | None, str], Pictures]  # called with `(data_dir, split)`
    splits: tuple[str, ...] = ("train", "test")
    crop: int | None = None  # side of the centred square to keep; None keeps the largest one
    horizontal_flip: bool = False  # whether training may mirror images (not for letters)
    licence: str | None = None  # as named by the publishers; None if unknown
    hub_id: str | None = None  # id on the Hugging Face Hub; None if there is no official one


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Images of one size, as uint8, each with a class index if the set has classes.

    Item `i` is `(uint8 [C, H, W], int)`; the label is -1 without classes. `images` is uint8
    `[N, C, H, W]` if the set is in memory, else None; each item is then decoded on access.
    `origin` names the files read, for reports.

    Example:
        >>> grey = pixel_array(np.zeros((5, 8, 8), np.uint8), "zeros")
        >>> dataset = ImageDataset("zeros", "train", grey, Resize(size=8, channels=1))
        >>> len(dataset), dataset[0][0].shape, dataset[0][1]
        (5, torch.Size([1, 8, 8]), -1)
    """

    def __init__(
        self,
        name: str,
        split: str,
        pictures: Pictures,
        resize: Resize,
        *,
        horizontal_flip: bool = False,
    ) -> None:
        self.name, self.split, self.origin = name, split, pictures.origin
        self.channels, self.image_size = resize.channels, resize.size
        self.labels, self.class_names = pictures.labels, pictures.class_names
        self.horizontal_flip = horizontal_flip
        self.images: Tensor | None = None
        self._resize = resize
        self._pictures: Pictures | None = pictures
        self._count = len(pictures)
        if isinstance(pictures.items, np.ndarray):
            self.images = resize_pixels(pictures.items, resize, pictures.origin)
            self._pictures = None  # free the original pixels

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 without classes."""
        return len(self.class_names)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        index = range(self._count)[index]  # negative indices count from the end
        label = NO_LABEL if self.labels is None else int(self.labels[index])
        return self._image(index), label

    def stack(self) -> Tensor:
        """Return all images as one tensor, uint8 `[N, C, H, W]`, decoding them if necessary."""
        if self.images is not None:
            return self.images
        return torch.stack([self._image(index) for index in range(self._count)])

    def _image(self, index: int) -> Tensor:
        """Return image `index`, uint8 `[C, H, W]`."""
        if self.images is not None:
            return self.images[index]
        assert self._pictures is not None  # one of the two is always present
        where = self._pictures.where(index)
        return resize_picture(self._pictures[index], self._resize, where)
