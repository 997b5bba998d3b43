"""Data sets that no row lists: a folder of images, or a name on the Hugging Face hub."""

import difflib
from collections.abc import Collection
from pathlib import Path

from spikediff.data.folder import SPLITS, read_folder
from spikediff.data.huggingface import read_huggingface
from spikediff.data.sources import AlikePictures, PictureSource
from spikediff.data.spec import DatasetSpec
from spikediff.errors import UserError

FOLDER_PREFIX = "folder:"
HUB_PREFIX = "hf:"


def unlisted_row(
    name: str, split: str, data_dir: Path | None, known: Collection[str]
) -> DatasetSpec:
    """Make the row of a data set that is named by its path or by its name on the hub.

    Args:
        name: `folder:PATH`, a folder that exists, or `hf:DATASET_ID`.
        split: the split to read.
        data_dir: the hub's cache; a folder's path does not depend on it.
        known: the listed names, to suggest one.

    Returns:
        The row; its size and channels are those of the first picture.

    Raises:
        UserError: none of these, or it cannot be read.
    """
    if name.startswith(HUB_PREFIX):
        hub_name = name.removeprefix(HUB_PREFIX)
        return _row_of(name, read_huggingface(hub_name, split, data_dir), (split,))
    folder = Path(name.removeprefix(FOLDER_PREFIX)).expanduser()
    if name.startswith(FOLDER_PREFIX) or folder.is_dir():
        # An unknown split reads the training images; the caller refuses it with the names.
        known_split = split if split in SPLITS else SPLITS[0]
        return _row_of(name, read_folder(folder, known_split), SPLITS)
    near = difflib.get_close_matches(name, known, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(
        f"unknown data set {name!r}; {guess}choose from {', '.join(known)}, or give "
        "'folder:PATH' or 'hf:DATASET_ID'"
    )


def alike(
    source: PictureSource, row: DatasetSpec, image_size: int | None, channels: int | None
) -> AlikePictures:
    """Hold every picture to the first one's size and colours, where none were asked for.

    Args:
        source: the pictures.
        row: what the first picture is like.
        image_size: the size that was asked for, or None.
        channels: the channels that were asked for, or None.

    Returns:
        The source with the check.
    """
    return AlikePictures(
        source,
        size=row.native_size if image_size is None else None,
        channels=row.channels if channels is None else None,
    )


def _row_of(name: str, source: PictureSource, splits: tuple[str, ...]) -> DatasetSpec:
    """Describe a source by its first picture."""
    first = source.decode(0)
    return DatasetSpec(
        summary=f"images of {name}",
        channels=1 if first.mode == "L" else 3,
        native_size=min(first.size),
        needs="",
        read=lambda _data_dir, _split: source,
        splits=splits,
    )
