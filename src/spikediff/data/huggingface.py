"""Data sets of the Hugging Face hub, through the optional package `datasets`."""

import importlib
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from spikediff.data.dataset import Pictures
from spikediff.data.decoding import check_pixels, grey_or_rgb
from spikediff.errors import UserError, brief, install_command


def read_huggingface(dataset_id: str, cache_dir: Path | None, split: str) -> Pictures:
    """Load a data set from the hub, or from its cache.

    Args:
        dataset_id: Name on the hub, such as `ylecun/mnist`.
        cache_dir: Where `datasets` keeps its files; None leaves that to it.
        split: A split that the data set has.

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
    """Import the optional package."""
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
