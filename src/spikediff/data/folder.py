"""Any folder of images."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from spikediff.data.decoding import IMAGE_SUFFIXES, ImageFiles
from spikediff.data.sources import stable_hash
from spikediff.errors import UserError

SPLITS = ("train", "test")


def read_folder(folder: Path, split: str) -> ImageFiles:
    """Read the images under a folder, in sorted order.

    About one image in ten is the test split, chosen by a hash of its path relative to the
    folder: adding or removing images moves no other image. If every image lies in a
    subfolder, the first-level subfolders are the classes.

    Args:
        folder: searched recursively for png, jpg, jpeg, webp and bmp files.
        split: `train` or `test`.

    Returns:
        The pictures, decoded when asked for.

    Raises:
        UserError: no folder, no image in it, or none in this split.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a folder of images")
    everything = list_images(folder)
    if not everything:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise UserError(f"{folder}: no images under it (looked for {suffixes}); add some")
    names = [name for name in everything if _in_test(name) == (split == "test")]
    if not names:
        raise UserError(
            f"{folder}: none of its {len(everything)} images falls into the {split} split (about "
            "one in ten is test); add images"
        )
    classes = _classes(everything)
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
        folder: searched recursively; hidden files and folders are left out.

    Returns:
        Paths relative to the folder, with forward slashes, sorted.
    """
    return sorted(_walk(folder))


def _walk(folder: Path) -> Iterator[str]:
    for parent, subfolders, names in os.walk(folder, followlinks=False):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        relative = Path(parent).relative_to(folder)
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES:
                yield (relative / name).as_posix()


def _in_test(name: str) -> bool:
    """Say whether the file with this relative path belongs to the test split."""
    return stable_hash(name) % 10 == 0


def _classes(names: list[str]) -> tuple[str, ...]:
    """Return the first-level subfolders if every image lies in one, else nothing."""
    if not all("/" in name for name in names):
        return ()
    return tuple(sorted({name.split("/")[0] for name in names}))
