"""Keeping trained classifiers: one file for every combination of data, layout and settings."""

import dataclasses
import hashlib
import os
import re
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from spikediff.data import ImageDataset
from spikediff.errors import UserError
from spikediff.evaluation.features.classifier import (
    ClassifierData,
    SmallClassifier,
    TrainedClassifier,
    TrainingSettings,
    train_on,
)
from spikediff.evaluation.features.extractor import state_digest


class CacheDamaged(UserWarning):
    """A stored classifier could not be used and was made again."""


def load_or_train_classifier(
    dataset: ImageDataset, cache_dir: Path | str, settings: TrainingSettings | None = None
) -> TrainedClassifier:
    """Return the classifier of a data set, from the cache where it is there.

    Args:
        dataset: The whole training split, labelled.
        cache_dir: Folder of stored classifiers; made where it does not exist.
        settings: How it is trained.

    Returns:
        The classifier. A stored one has the same bits as when it was trained.

    Raises:
        UserError: The data set cannot be learnt from; see `ClassifierData.of`. Or the folder
            cannot be written to.

    Warns:
        CacheDamaged: The stored file is damaged; the classifier was trained again.
    """
    settings = settings or TrainingSettings()
    data = ClassifierData.of(dataset)
    key = cache_key(data, settings)
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", dataset.name)[-40:].strip("-")  # may be a path
    path = Path(cache_dir).expanduser() / f"classifier-{name}-{key[:16]}.safetensors"
    if path.is_file():
        try:
            return _read(path, data)
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            warnings.warn(f"{path}: {reason}; trained again", CacheDamaged, stacklevel=2)
    _make_folder(path.parent)  # before the minutes of training, not after
    trained = train_on(data, settings)
    _write(path, trained, {"key": key, "dataset": dataset.name, "torch": torch.__version__})
    return trained


def _make_folder(folder: Path) -> None:
    """Make the cache folder, or say that it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; give another cache_dir") from error


def cache_key(data: ClassifierData, settings: TrainingSettings) -> str:
    """Return SHA-256 over all that the weights depend on."""
    layout = SmallClassifier(data.train.images.shape[1], data.classes)
    facts = (
        data.train.digest,
        data.held_out.digest,
        data.flip,
        str(layout),
        sorted(dataclasses.asdict(settings).items()),
        torch.__version__,
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _read(path: Path, data: ClassifierData) -> TrainedClassifier:
    """Read a stored classifier; a flipped bit shows in the digest."""
    with safe_open(path, framework="pt") as file:
        facts = file.metadata() or {}
        state: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if state_digest(state) != facts["digest"]:
        raise ValueError("its checksum differs, the file is damaged")
    channels, side = data.train.images.shape[1], data.train.images.shape[-1]
    module = SmallClassifier(channels, data.classes)
    module.load_state_dict(state)
    module.eval()
    return TrainedClassifier(module, side, channels, float(facts["held_out_accuracy"]))


def _write(path: Path, trained: TrainedClassifier, facts: dict[str, str]) -> None:
    """Write a classifier under another name, then rename it: the file is there or not."""
    state = trained.module.state_dict()
    facts |= {
        "digest": state_digest(state),
        "held_out_accuracy": repr(trained.held_out_accuracy),
    }
    draft = path.with_name(f".{path.stem}-{os.getpid()}.tmp")
    try:
        with open(draft, "wb") as file:
            file.write(save(state, metadata=facts))
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give another cache_dir") from error
    finally:
        draft.unlink(missing_ok=True)
