"""Data sets outside the table: a folder of images, or a name on the Hugging Face hub."""

import difflib
import importlib
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from spikediff.data.dataset import DatasetSpec, Pictures, stable_hash
from spikediff.data.decoding import IMAGE_SUFFIXES, check_pixels, grey_or_rgb, image_files
from spikediff.errors import UserError, brief, install_command

FOLDER_PREFIX, HUB_PREFIX = "folder:", "hf:"
SPLITS = ("train", "test")
MOST_FOLDERS = 100_000
MOST_LEVELS = 40


def read_folder(folder: Path, _data_dir: Path | None, split: str) -> Pictures:
    """Read the images under a folder, including linked folders, in sorted order.

    About one image in ten belongs to the test split, chosen by a hash of its path relative to the
    folder, so adding or removing images does not move others. If every image is in a subfolder, the
    first-level subfolders are the classes. Other files are skipped with a warning.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a folder of images")
    everything, others = list_files(folder)
    warn_of_others(folder, others)
    if not everything:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise UserError(f"{folder}: no images under it (looked for {suffixes}); add some")
    names = [name for name in everything if (stable_hash(name) % 10 == 0) == (split == "test")]
    if not names:
        raise UserError(
            f"{folder}: none of its {len(everything)} images falls into the {split} split (about "
            "one in ten is test); add images"
        )
    classes = _classes(folder, everything)
    labels = [classes.index(name.split("/")[0]) for name in names] if classes else None
    paths = [folder / name for name in names]
    return image_files(
        paths, str(folder), None if labels is None else torch.tensor(labels), classes
    )


def warn_of_others(folder: Path, others: Sequence[str]) -> None:
    """Warn about the files of a folder that were skipped, and name the first of them."""
    if others:
        warnings.warn(
            f"{folder}: skipped {len(others)} files that are not used as images "
            f"({_some(others)}); supported: {', '.join(sorted(IMAGE_SUFFIXES))}",
            stacklevel=3,
        )


def _some(names: Sequence[str]) -> str:
    """Name the first files, followed by dots if there are more."""
    return ", ".join([*sorted(names)[:3], *["..."][: len(names) > 3]])


def list_files(folder: Path) -> tuple[list[str], list[str]]:
    """Return the images and the other files under a folder, both sorted, without hidden files.

    They are relative paths with forward slashes.
    """
    names = sorted(_walk(folder, "", (), count()))
    images = [name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    chosen = set(images)
    return images, [name for name in names if name not in chosen]


def _walk(
    folder: Path, relative: str, above: tuple[tuple[int, int], ...], folders: Iterator[int]
) -> Iterator[str]:
    """Yield the files under a folder; do not follow a link to one of its parent folders."""
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
            "deep; do its links form a circle?"
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


def _classes(folder: Path, names: list[str]) -> tuple[str, ...]:
    """Return the first-level subfolders if every image is in one, else nothing."""
    beside = [name for name in names if "/" not in name]
    if not beside:
        return tuple(sorted({name.split("/")[0] for name in names}))
    if len(beside) < len(names):
        warnings.warn(
            f"{folder}: {len(beside)} of {len(names)} images lie beside the subfolders "
            f"({_some(beside)}), so these are not classes",
            stacklevel=3,
        )
    return ()


def read_huggingface(dataset_id: str, cache_dir: Path | None, split: str) -> Pictures:
    """Load a split of a data set from the hub or its cache, with the optional package `datasets`.

    Returns:
        The pictures, with labels if there is a column `label` of integers.
    """
    origin = f"hf:{dataset_id}"
    datasets = _import_datasets(origin)
    try:
        kept = None if cache_dir is None else str(cache_dir)
        table = datasets.load_dataset(dataset_id, split=split, cache_dir=kept)
    except Exception as error:  # the hub, the network and the disk can fail in many ways
        raise UserError(
            f"{origin}: cannot load split {split!r} ({brief(error)}); check name, split and network"
        ) from None
    if len(table) == 0:
        raise UserError(f"{origin}: split {split!r} is empty; choose another split")
    column = _image_column(table, datasets, origin)
    labels, class_names = _labels(table)
    read = partial(_read_row, table.select_columns([column]), column, origin)
    where = partial(_name_of, origin)
    return Pictures(range(len(table)), read, where, origin, labels, class_names)


def _read_row(table: Any, column: str, origin: str, row: int) -> Image.Image:
    """Return the picture of a row, mode `L` or `RGB`."""
    where = _name_of(origin, row)
    try:
        picture = table[row][column]
    except (OSError, SyntaxError, ValueError) as error:
        reason = brief(error)
        raise UserError(f"{where}: cannot be decoded ({reason}); remove the row") from None
    if not isinstance(picture, Image.Image):
        kind = type(picture).__name__
        raise UserError(
            f"{where}: column {column!r} holds {kind}, not images; choose another data set"
        )
    check_pixels(picture, where)
    return grey_or_rgb(picture)


def _name_of(origin: str, row: int) -> str:
    return f"{origin}, row {row}"


def _import_datasets(origin: str) -> Any:
    try:
        return importlib.import_module("datasets")  # lazy: heavy and optional
    except ImportError:
        raise UserError(
            f"{origin}: the package datasets is missing; run: {install_command('data')}"
        ) from None


def _image_column(table: Any, datasets: Any, origin: str) -> str:
    """Return the first column of images, else one with a usual name."""
    features = table.features
    typed = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    named = [name for name in ("image", "img") if name in features]
    if not typed and not named:
        columns = ", ".join(features)
        raise UserError(f"{origin}: no column of images among {columns}; choose another data set")
    return str([*typed, *named][0])


def _labels(table: Any) -> tuple[Tensor | None, tuple[str, ...]]:
    """Return labels and class names, if there is a column `label` of integers."""
    if "label" not in table.features:
        return None, ()
    values = list(table["label"])
    if not all(isinstance(value, int) for value in values):
        return None, ()
    names = getattr(table.features["label"], "names", None) or range(max(values) + 1)
    return torch.tensor(values), tuple(str(name) for name in names)


def find_data(name: str, split: str, known: Collection[str]) -> DatasetSpec:
    """Return the row of a data set that is named by its path or by its name on the hub.

    The name is `folder:PATH`, an existing folder, or `hf:DATASET_ID`, whose splits are unknown. The
    row's size and channels are placeholders; `like_first` takes those of the first picture.
    `known` lists the names in the table, for suggestions.
    """
    if name.startswith(HUB_PREFIX):
        read = partial(read_huggingface, name.removeprefix(HUB_PREFIX))
        return DatasetSpec(f"images of {name}", 1, 1, "", read, (split,))
    folder = Path(name.removeprefix(FOLDER_PREFIX)).expanduser()
    if name.startswith(FOLDER_PREFIX) or folder.is_dir():
        read = partial(read_folder, folder)
        return DatasetSpec(f"images of {name}", 1, 1, "", read, SPLITS)
    if "/" in name:
        raise UserError(f"data set {name}: no such folder; hf:{name} is a data set of that name")
    near = difflib.get_close_matches(name, known, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(
        f"unknown data set {name!r}; {guess}choose from {', '.join(known)}, or give "
        "'folder:PATH' or 'hf:DATASET_ID'"
    )


def like_first(
    pictures: Pictures, image_size: int | None, channels: int | None
) -> tuple[Pictures, int, int]:
    """Take size and channels from the first picture unless they are given.

    The other pictures must then agree with the first. Otherwise a folder of mixed sizes or colours
    would be resized or lose its colours without notice.

    Returns:
        The pictures, which are checked when they are read; their side and channels.
    """
    first = pictures[0]
    size, depth = min(first.size), 1 if first.mode == "L" else 3
    read = partial(
        _read_alike,
        pictures.read,
        pictures.name,
        size if image_size is None else None,
        depth == 1 and channels is None,
    )
    return (
        replace(pictures, read=read),
        size if image_size is None else image_size,
        depth if channels is None else channels,
    )


def _read_alike(
    read: Callable[[Any], Image.Image],
    name: Callable[[Any], str],
    size: int | None,
    grey: bool,
    item: Any,
) -> Image.Image:
    """Read a picture; refuse a shorter side other than `size`, and colours if others are grey."""
    picture = read(item)
    if size is not None and min(picture.size) != size:
        found = f"{picture.width}x{picture.height} pixels"
        raise UserError(
            f"{name(item)}: {found}, but the first image is {size} on its shorter "
            "side; give image_size"
        )
    if grey and picture.mode != "L":
        raise UserError(
            f"{name(item)}: a colour image, but the first one is grey; give channels (1 or 3)"
        )
    return picture
