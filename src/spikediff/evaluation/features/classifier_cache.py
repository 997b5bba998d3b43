"""Keeping trained classifiers: one file for every combination of data, layout and settings."""

import dataclasses
import hashlib
import re
from pathlib import Path

import torch
from torch import Tensor

from spikediff.at_work import at_work
from spikediff.data import ImageDataset
from spikediff.errors import UserError
from spikediff.evaluation.features.classifier import (
    ClassifierData,
    SmallClassifier,
    TrainedClassifier,
    TrainingSettings,
    train_on,
)
from spikediff.tensor_file import read_tensors, write_tensors

_ACCURACY = "held_out_accuracy"  # beside the weights in the file


def load_or_train_classifier(
    dataset: ImageDataset, cache_dir: Path | str, settings: TrainingSettings | None = None
) -> TrainedClassifier:
    """Return the classifier of a data set, from the cache where it is there.

    Args:
        dataset: The whole training split, labelled.
        cache_dir: Folder of stored classifiers; made where it does not exist.
        settings: How it is trained.

    Returns:
        The classifier. A stored one has the same bits as when it was trained; one whose file is
        damaged is trained again, with a warning in the log.

    Raises:
        UserError: The data set cannot be learnt from; see `ClassifierData.of`. Or the folder
            cannot be written to.
    """
    settings = settings or TrainingSettings()
    data = ClassifierData.of(dataset)
    key = cache_key(data, settings)
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", dataset.name)[-40:].strip("-")  # may be a path
    path = Path(cache_dir).expanduser() / f"classifier-{name}-{key[:16]}.safetensors"
    stored = read_tensors(path, {"key": key})
    if stored is not None:
        return _restored(stored, data)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)  # before the minutes of training
        with at_work(f"training a classifier of {dataset.name}"):
            trained = train_on(data, settings)
        accuracy = torch.tensor(trained.held_out_accuracy, dtype=torch.float64)
        write_tensors(path, {**trained.module.state_dict(), _ACCURACY: accuracy}, {"key": key})
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give another cache_dir") from error
    return trained


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


def _restored(stored: dict[str, Tensor], data: ClassifierData) -> TrainedClassifier:
    """Return a stored classifier."""
    channels, side = data.train.images.shape[1], data.train.images.shape[-1]
    module = SmallClassifier(channels, data.classes)
    accuracy = stored.pop(_ACCURACY).item()
    module.load_state_dict(stored)
    module.eval()
    return TrainedClassifier(module, side, channels, accuracy)
