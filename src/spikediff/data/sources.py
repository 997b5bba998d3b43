"""What a reader returns: one split's pictures as found, before they are made to fit.

What the library knows of a data set before it opens a file.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from spikediff.errors import UserError


class PictureSource(Protocol):
    """The contract between the readers and `ImageDataset`."""

    @property
    def labels(self) -> Tensor | None:
        """Class of each picture, int64 `[N]`; None where the set has no classes."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class, in the order of the labels; empty without classes."""

    @property
    def origin(self) -> str:
        """Which files were read, for reports."""

    def __len__(self) -> int: ...

    def decode(self, index: int) -> Image.Image:
        """Return picture `index`, mode `L` or `RGB`, in its own size."""

    def where(self, index: int) -> str:
        """Name picture `index` in an error message."""

    def select(self, indices: Sequence[int]) -> Self:
        """Return a source of these pictures only, in this order."""


@dataclass(frozen=True, eq=False)
class PixelArray:
    """Pictures of one size, all in memory.

    Args:
        pixels: uint8 `[N, H, W]` or `[N, H, W, 3]`.
        labels: int64 `[N]`.
        class_names: one name per class.
        origin: which files were read.
    """

    pixels: NDArray[np.uint8]
    labels: Tensor | None
    class_names: tuple[str, ...]
    origin: str

    def __len__(self) -> int:
        return len(self.pixels)

    def decode(self, index: int) -> Image.Image:
        """Return picture `index`, mode `L` or `RGB`."""
        return Image.fromarray(self.pixels[index])

    def where(self, index: int) -> str:
        """Name picture `index` in an error message."""
        return f"{self.origin}, image {index}"

    def select(self, indices: Sequence[int]) -> "PixelArray":
        """Return these pictures only, in this order."""
        labels = select_labels(self.labels, indices)
        return PixelArray(self.pixels[list(indices)], labels, self.class_names, self.origin)


@dataclass(frozen=True, eq=False)
class AlikePictures:
    """Another source, whose pictures must all be like its first one.

    Without it a folder of mixed sizes or colours would be resized, or lose its colours, unasked.

    Args:
        source: the pictures.
        size: shorter side that every picture must have, in pixels; None checks no size.
        channels: 1 refuses colour pictures; 3 and None take any.
    """

    source: PictureSource
    size: int | None
    channels: int | None

    @property
    def labels(self) -> Tensor | None:
        """Class of each picture, int64 `[N]`."""
        return self.source.labels

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class."""
        return self.source.class_names

    @property
    def origin(self) -> str:
        """Which files were read."""
        return self.source.origin

    def __len__(self) -> int:
        return len(self.source)

    def decode(self, index: int) -> Image.Image:
        """Return picture `index` after the check."""
        picture = self.source.decode(index)
        if self.size is not None and min(picture.size) != self.size:
            found = f"{picture.width}x{picture.height} pixels"
            raise UserError(
                f"{self.where(index)}: {found}, but the first image is {self.size} on its shorter "
                "side; give image_size"
            )
        if self.channels == 1 and picture.mode != "L":
            raise UserError(
                f"{self.where(index)}: a colour image, but the first one is grey; give channels "
                "(1 or 3)"
            )
        return picture

    def where(self, index: int) -> str:
        """Name picture `index` in an error message."""
        return self.source.where(index)

    def select(self, indices: Sequence[int]) -> "AlikePictures":
        """Return these pictures only, in this order."""
        return AlikePictures(self.source.select(indices), self.size, self.channels)


def labelled_pixels(
    pixels: NDArray[Any],
    labels: NDArray[Any],
    class_names: tuple[str, ...],
    origin: str,
    first_label: int = 0,
) -> PixelArray:
    """Join images and labels after checking that they belong together.

    Args:
        pixels: uint8 `[N, H, W]` or `[N, H, W, 3]`, N at least 1.
        labels: integers `[N]`, `first_label` to `first_label` + K - 1.
        class_names: K names.
        origin: the files, to name in an error and in reports.
        first_label: the label of the first class.

    Returns:
        The source.

    Raises:
        UserError: a wrong type or shape, differing counts, or a label out of range.
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
    return PixelArray(pixels, torch.from_numpy(labels), class_names, origin)


def select_labels(labels: Tensor | None, indices: Sequence[int]) -> Tensor | None:
    """Select labels where there are any.

    Args:
        labels: int64 `[N]`, or None.
        indices: which ones to keep.

    Returns:
        int64 `[len(indices)]`, or None.
    """
    return None if labels is None else labels[torch.tensor(list(indices), dtype=torch.int64)]


def stable_hash(key: str) -> int:
    """Hash a text to a number that is the same on every machine and for ever.

    Splits rest on it rather than on a random generator, whose stream a release may change.

    Args:
        key: any text.

    Returns:
        64 bits of its SHA-256.

    Example:
        >>> stable_hash("cat.png") % 10
        0
    """
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()[:8])


def part_indices(count: int, held_out: bool, where: str) -> list[int]:
    """Return which of `count` images are the tenth held out for choosing, or which are not.

    Args:
        count: Images of the split.
        held_out: True for the tenth, False for the other nine tenths.
        where: The split, for the message.

    Raises:
        UserError: None are left.

    Example:
        >>> part_indices(20, held_out=True, where="example")
        [4, 14]
    """
    kept = [i for i in range(count) if (stable_hash(f"held out {i}") % 10 == 0) == held_out]
    if not kept:
        part = "held-out tenth" if held_out else "rest beside the held-out tenth"
        raise UserError(f"{where}: {count} images leave no {part}; add images")
    return kept


def take_part(source: PictureSource, held_out: bool | None) -> PictureSource:
    """Take the tenth of a split that is held out for choosing, or the rest.

    Args:
        source: one split.
        held_out: True for the tenth, False for the other nine tenths, None for all.

    Returns:
        The part; which image falls where depends on its index alone.

    Raises:
        UserError: nothing is left.
    """
    if held_out is None:
        return source
    return source.select(part_indices(len(source), held_out, source.origin))


Reader = Callable[[Path | None, str], PictureSource]
"""`(data_dir, split)` to the pictures; raises `UserError` for anything wrong with the files."""


@dataclass(frozen=True)
class DatasetSpec:
    """One row of `DATASETS`.

    Args:
        summary: what the images show, in one line.
        channels: 1 (grey) or 3 (RGB), as stored.
        native_size: side of the images in pixels when no `image_size` is asked for.
        needs: the files that must be in the data folder, in words; empty if none.
        read: the reader, `(data_dir, split)` to pictures.
        splits: the names that `split` may take.
        crop: side of the centred square that is kept before resizing, in pixels; None keeps
            the largest one.
        horizontal_flip: whether a mirrored image is as good as the image, so that training may
            flip at random (a mirrored letter is no letter).
        licence: its licence, as its publishers name it; None where none is known here.
        hub_id: the data set's name on the Hugging Face Hub; None where there is no official one.
    """

    summary: str
    channels: int
    native_size: int
    needs: str
    read: Reader
    splits: tuple[str, ...] = ("train", "test")
    crop: int | None = None
    horizontal_flip: bool = False
    licence: str | None = None
    hub_id: str | None = None
