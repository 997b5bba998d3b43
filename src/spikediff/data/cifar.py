"""CIFAR-10: the original Python batches, a lossless subset, or a packed-JPEG copy."""

import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikediff.data.arrays import candidate_folders, find_first, missing_files, read_npz
from spikediff.data.dataset import DatasetSpec, Pictures, labelled_pixels
from spikediff.data.decoding import decode_image
from spikediff.errors import UserError
from spikediff.files.pickles import load_plain

_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"
CLASSES = tuple(_CLASSES.split(" "))
BATCHES_FOLDER = "cifar-10-batches-py"
BATCHES = {"train": tuple(f"data_batch_{n}" for n in range(1, 6)), "test": ("test_batch",)}
PACKED = "cifar10_jpeg_q75.npz"
LOSSLESS = "cifar10_lossless_train4000_test1000.npz"
NEEDS = f"the folder {BATCHES_FOLDER} (unpacked), or the lossy copy {PACKED}"


def read_cifar10(data_dir: Path | None, split: str) -> Pictures:
    """Read all of CIFAR-10, 32x32 RGB: the Python batches if present, else packed JPEGs.

    `origin` names the copy. The JPEG copy (quality 75) also gives a warning, because scores against
    it are not comparable with published ones.
    """
    folders = candidate_folders("cifar10", data_dir, NEEDS)
    batches = find_first(folders, [f"{BATCHES_FOLDER}/{name}" for name in BATCHES[split]])
    if batches is None:  # data_dir may be the folder of batches itself
        batches = find_first(folders, BATCHES[split])
    if batches is not None:
        return _read_batches(batches.parent, split)
    packed = find_first(folders, [PACKED])
    if packed is None:
        names = [f"{BATCHES_FOLDER}/{name}" for name in BATCHES[split]]
        raise missing_files("cifar10", split, [*names, PACKED], folders, NEEDS)
    warnings.warn(
        f"cifar10: {packed} is a lossy JPEG copy; scores against it are not comparable with "
        "published ones",
        stacklevel=3,
    )
    return _read_packed(packed, split)


def read_cifar10_lossless(data_dir: Path | None, split: str) -> Pictures:
    """Read the first 4,000 training and 1,000 test images of CIFAR-10, as published."""
    folders = candidate_folders("cifar10-lossless-subset", data_dir, LOSSLESS)
    names = [LOSSLESS, f"cifar10/{LOSSLESS}"]
    path = find_first(folders, names)
    if path is None:
        raise missing_files("cifar10-lossless-subset", split, names, folders, LOSSLESS)
    images, labels = read_npz(path, [f"{split}_images", f"{split}_labels"])
    return labelled_pixels(images, labels, CLASSES, str(path))


def _read_batches(folder: Path, split: str) -> Pictures:
    missing = [name for name in BATCHES[split] if not (folder / name).is_file()]
    if missing:
        raise UserError(f"cifar10: {folder} lacks {', '.join(missing)}; unpack the archive again")
    pixels, labels = zip(*(_read_batch(folder / name) for name in BATCHES[split]), strict=True)
    return labelled_pixels(np.concatenate(pixels), np.concatenate(labels), CLASSES, str(folder))


def _read_batch(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read one batch: uint8 `[N, 32, 32, 3]` and int64 `[N]`."""
    batch = load_plain(path)
    entries = batch if isinstance(batch, dict) else {}
    # Python 2 wrote the keys as bytes; rewritten files may have text.
    data, labels = (entries.get(key.encode(), entries.get(key)) for key in ("data", "labels"))
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != 3 * 32 * 32:
        raise UserError(f"{path}: holds no data array [N, 3072]; fetch the archive again")
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise UserError(f"{path}: holds no list of labels; fetch the archive again")
    planes = data.reshape(-1, 3, 32, 32)  # [N, C, H, W]
    return planes.transpose(0, 2, 3, 1), np.array(labels, dtype=np.int64)  # [N, H, W, C], [N]


def _read_packed(path: Path, split: str) -> Pictures:
    """Decode an npz with concatenated JPEG files."""
    keys = [f"{split}_{part}" for part in ("data", "offsets", "labels")]
    data, offsets, labels = read_npz(path, keys)
    images = [
        np.asarray(decode_image(encoded, f"{path}, {split} image {index}").convert("RGB"))
        for index, encoded in enumerate(_unpacked(data, offsets, path))
    ]
    if any(image.shape != (32, 32, 3) for image in images):
        raise UserError(f"{path}: holds images that are not 32x32 pixels; fetch the file again")
    return labelled_pixels(np.stack(images), labels, CLASSES, f"{path} (lossy JPEG copy)")


def _unpacked(data: NDArray[Any], offsets: NDArray[Any], path: Path) -> Iterator[bytes]:
    """Split the bytes at the offsets, after checking that these cover all of the bytes."""
    flat = data.ndim == offsets.ndim == 1 and data.dtype == np.uint8 and len(offsets) > 1
    whole = flat and np.issubdtype(offsets.dtype, np.integer)
    if not whole or offsets[0] != 0 or offsets[-1] != len(data) or (np.diff(offsets) <= 0).any():
        raise UserError(f"{path}: its offsets do not cut its data; fetch the file again")
    content = data.tobytes()
    bounds = offsets.tolist()
    return (content[start:end] for start, end in itertools.pairwise(bounds))


CIFAR10 = DatasetSpec(
    summary="60,000 photographs in 10 classes, 32x32 RGB",
    channels=3,
    native_size=32,
    needs=NEEDS,
    read=read_cifar10,
    horizontal_flip=True,
    hub_id="uoft-cs/cifar10",
)
LOSSLESS_SUBSET = DatasetSpec(
    summary="the first 4,000 training and 1,000 test images of CIFAR-10, 32x32 RGB",
    channels=3,
    native_size=32,
    needs=LOSSLESS,
    read=read_cifar10_lossless,
    horizontal_flip=True,
)
