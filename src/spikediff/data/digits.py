"""Scikit-learn's digits: 1,797 real handwritten digits that need no download."""

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spikediff.data.dataset import DatasetSpec, Pictures, labelled_pixels, stable_hash

CLASSES = tuple("0123456789")
MAX_INK = 16  # a pixel is the number of inked dots in a 4x4 block


def read_digits(data_dir: Path | None, split: str) -> Pictures:
    """Read the digits, 8x8 grey, ink white on black; they come with scikit-learn."""
    grey, labels = _digits(split)
    return labelled_pixels(grey.copy(), labels.copy(), CLASSES, "scikit-learn load_digits")


@cache  # 0.1 MB, which takes long to read as text
def _digits(split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the grey levels [N, 8, 8] and classes [N] of a split."""
    from sklearn.datasets import load_digits  # lazy: takes a second

    bunch = load_digits()
    grey = np.round(bunch.images * (255 / MAX_INK)).astype(np.uint8)  # [1797, 8, 8]
    kept = split_indices(bunch.target.tolist(), split)
    return grey[kept], bunch.target[kept]


def split_indices(labels: list[int], split: str) -> list[int]:
    """Return the indices of a split, ascending, given the class of every image.

    A fifth of each class forms the test split, chosen by a hash of the index, so it never changes.

    Example:
        >>> split_indices([0, 0, 0, 0, 0, 1, 1, 1, 1, 1], "test")
        [4, 8]
    """
    test: set[int] = set()
    for label in set(labels):
        members = [index for index, other in enumerate(labels) if other == label]
        shuffled = sorted(members, key=lambda index: stable_hash(f"digits {index}"))
        test.update(shuffled[: len(members) // 5])
    return [index for index in range(len(labels)) if (index in test) == (split == "test")]


DIGITS = DatasetSpec(
    summary="1,797 handwritten digits, 8x8 grey; comes with scikit-learn, no download",
    channels=1,
    native_size=8,
    needs="",
    read=read_digits,
    licence="CC BY 4.0 (UCI Machine Learning Repository)",
)
