"""Any folder of images.

Data sets that no row lists: a folder of images, or a name on the Hugging Face hub.
"""

import difflib
import os
import warnings
from collections.abc import Collection, Iterator, Sequence
from itertools import count
from pathlib import Path

import torch

from spikediff.data.decoding import IMAGE_SUFFIXES, ImageFiles
from spikediff.data.huggingface import read_huggingface
from spikediff.data.sources import AlikePictures, DatasetSpec, PictureSource, stable_hash
from spikediff.errors import UserError, brief

SPLITS = ("train", "test")
MOST_FOLDERS = 100_000
MOST_LEVELS = 40


def read_folder(folder: Path, split: str) -> ImageFiles:
    """Read the images under a folder, in sorted order.

    About one image in ten is the test split, chosen by a hash of its path relative to the
    folder: adding or removing images moves no other image. If every image lies in a
    subfolder, the first-level subfolders are the classes.

    Args:
        folder: searched recursively for png, jpg, jpeg, webp and bmp files, linked folders too;
            what is passed over is told by a warning.
        split: `train` or `test`.

    Returns:
        The pictures, decoded when asked for.

    Raises:
        UserError: no folder, no image in it, or none in this split.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a folder of images")
    everything, others = list_files(folder)
    warn_of_others(folder, others)
    if not everything:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise UserError(f"{folder}: no images under it (looked for {suffixes}); add some")
    names = [name for name in everything if _in_test(name) == (split == "test")]
    if not names:
        raise UserError(
            f"{folder}: none of its {len(everything)} images falls into the {split} split (about "
            "one in ten is test); add images"
        )
    classes = _classes(folder, everything)
    labels = [classes.index(name.split("/")[0]) for name in names] if classes else None
    return ImageFiles(
        paths=tuple(folder / name for name in names),
        labels=None if labels is None else torch.tensor(labels),
        class_names=classes,
        origin=str(folder),
    )


def list_images(folder: Path) -> list[str]:
    """List the image files under a folder.

    Args:
        folder: searched recursively, linked folders too; hidden files and folders are left out.

    Returns:
        Paths relative to the folder, with forward slashes, sorted.

    Raises:
        UserError: a folder cannot be listed, or links lead through too many of them.
    """
    return list_files(folder)[0]


def warn_of_others(folder: Path, others: Sequence[str]) -> None:
    """Say how many files of a folder were passed over, and name the first of them."""
    if others:
        warnings.warn(
            f"{folder}: passed over {len(others)} files that are not used as images "
            f"({_some(others)}); used are {', '.join(sorted(IMAGE_SUFFIXES))}",
            stacklevel=3,
        )


def _some(names: Sequence[str]) -> str:
    """Name the first files, with three points where there are more."""
    return ", ".join([*sorted(names)[:3], *["..."][: len(names) > 3]])


def list_files(folder: Path) -> tuple[list[str], list[str]]:
    """Return the images under a folder and the other files, both sorted."""
    names = sorted(_walk(folder, "", (), count()))
    images = [name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    chosen = set(images)
    return images, [name for name in names if name not in chosen]


def _walk(
    folder: Path, relative: str, above: tuple[tuple[int, int], ...], folders: Iterator[int]
) -> Iterator[str]:
    """Yield the files under a folder; a link to a folder above itself is not followed."""
    try:
        found = os.stat(folder)
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({brief(error)}); check the folder") from None
    if (found.st_dev, found.st_ino) in above:
        return
    if next(folders) >= MOST_FOLDERS or len(above) >= MOST_LEVELS:
        raise UserError(
            f"{folder}: lies behind more than {MOST_FOLDERS:,} folders, or {MOST_LEVELS} levels "
            "deep; do its links lead round?"
        )
    for entry in entries:
        if entry.name.startswith("."):
            continue
        name = f"{relative}{entry.name}"
        if entry.is_dir():
            below = (*above, (found.st_dev, found.st_ino))
            yield from _walk(folder / entry.name, f"{name}/", below, folders)
        else:
            yield name


def _in_test(name: str) -> bool:
    """Say whether the file with this relative path belongs to the test split."""
    return stable_hash(name) % 10 == 0


def _classes(folder: Path, names: list[str]) -> tuple[str, ...]:
    """Return the first-level subfolders if every image lies in one, else nothing."""
    beside = [name for name in names if "/" not in name]
    if not beside:
        return tuple(sorted({name.split("/")[0] for name in names}))
    if len(beside) < len(names):
        warnings.warn(
            f"{folder}: {len(beside)} of {len(names)} images lie beside the subfolders "
            f"({_some(beside)}), so these are no classes",
            stacklevel=3,
        )
    return ()


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
