"""What the library knows of a data set before it opens a file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from spikediff.data.sources import PictureSource

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
