"""Data sets of the Hugging Face hub, through the optional package `datasets`."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from spikediff.data.decoding import check_pixels, grey_or_rgb
from spikediff.data.sources import select_labels
from spikediff.errors import UserError, brief


@dataclass(frozen=True, eq=False)
class HuggingFaceImages:
    """Pictures of a hub data set, decoded when asked for.

    Args:
        table: a `datasets.Dataset` with the image column only.
        column: name of that column.
        labels: int64 `[N]`, or None.
        class_names: one name per class; empty without classes.
        origin: the data set's name, for reports.
    """

    table: Any
    column: str
    labels: Tensor | None
    class_names: tuple[str, ...]
    origin: str

    def __len__(self) -> int:
        return len(self.table)

    def decode(self, index: int) -> Image.Image:
        """Return picture `index`, mode `L` or `RGB`."""
        try:
            picture = self.table[index][self.column]
        except (OSError, SyntaxError, ValueError) as error:
            reason = brief(error)
            raise UserError(
                f"{self.where(index)}: cannot be decoded ({reason}); remove the row"
            ) from None
        if not isinstance(picture, Image.Image):
            kind = type(picture).__name__
            raise UserError(
                f"{self.where(index)}: column {self.column!r} holds {kind}, not images; "
                "choose another data set"
            )
        check_pixels(picture, self.where(index))
        return grey_or_rgb(picture)

    def where(self, index: int) -> str:
        """Name picture `index` in an error message."""
        return f"{self.origin}, row {index}"

    def select(self, indices: Sequence[int]) -> "HuggingFaceImages":
        """Return these pictures only, in this order."""
        labels = select_labels(self.labels, indices)
        table = self.table.select(list(indices))
        return HuggingFaceImages(table, self.column, labels, self.class_names, self.origin)


def read_huggingface(dataset_id: str, split: str, cache_dir: Path | None) -> HuggingFaceImages:
    """Load a data set from the hub, or from its cache.

    Args:
        dataset_id: name on the hub, such as `ylecun/mnist`.
        split: a split that the data set has.
        cache_dir: where `datasets` keeps its files; None leaves that to it.

    Returns:
        The pictures; labels if there is a column `label` of integers.

    Raises:
        UserError: `datasets` is not installed, the set or split cannot be loaded, or it has no
            images.
    """
    origin = f"hf:{dataset_id}"
    datasets = _import_datasets(origin)
    try:
        kept = None if cache_dir is None else str(cache_dir)
        table = datasets.load_dataset(dataset_id, split=split, cache_dir=kept)
    except Exception as error:  # the hub, the network and the disk fail in many ways
        raise UserError(
            f"{origin}: cannot load split {split!r} ({brief(error)}); check name, split and network"
        ) from None
    if len(table) == 0:
        raise UserError(f"{origin}: split {split!r} is empty; choose another split")
    column = _image_column(table, datasets, origin)
    labels, class_names = _labels(table)
    return HuggingFaceImages(table.select_columns([column]), column, labels, class_names, origin)


def _import_datasets(origin: str) -> Any:
    """Import the optional package."""
    try:
        return importlib.import_module("datasets")  # lazy: heavy and optional
    except ImportError:
        raise UserError(
            f"{origin}: the package datasets is missing; run: pip install 'spikediff[data]'"
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
