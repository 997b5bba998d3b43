"""What a row of the table of feature networks is, and how each one is loaded."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from spikediff.data import ImageDataset
from spikediff.errors import UserError
from spikediff.evaluation.features.autoencoder import load_autoencoder
from spikediff.evaluation.features.classifier import load_or_train_classifier, train_classifier
from spikediff.evaluation.features.inception import NATIVE_SIZE, load_inception
from spikediff.evaluation.features.network import FeatureNetwork
from spikediff.evaluation.features.resnet import load_resnet


@dataclass(frozen=True)
class FeatureRequest:
    """What a feature network may be made of.

    Attributes:
        name: Key of the table, for messages.
        weights: File of weights.
        dataset: Whole training split of the data to be measured.
        mode: `clean` or `published`.
        cache_dir: Where trained networks are kept.
        device: Where the network runs.
    """

    name: str
    weights: Path | None
    dataset: ImageDataset | None
    mode: str
    cache_dir: Path | None
    device: str

    def needed_weights(self) -> Path:
        """Return the file of weights, or say that it is needed."""
        if self.weights is None:
            raise UserError(f"{self.name}: give the file of its weights")
        return self.weights

    def needed_dataset(self) -> ImageDataset:
        """Return the data set, or say that it is needed."""
        if self.dataset is None:
            raise UserError(f"{self.name}: give the training split that it learns from")
        return self.dataset


@dataclass(frozen=True)
class FeatureSpec:
    """A row of the table.

    Attributes:
        summary: One line for people.
        needs: What `load_features` must be given, for people; empty for nothing.
        load: Makes the network.
        modes: Those that it has.
    """

    summary: str
    needs: str
    load: Callable[[FeatureRequest], FeatureNetwork]
    modes: tuple[str, ...] = ("clean",)


def autoencoder(request: FeatureRequest) -> FeatureNetwork:
    """Load `fad`."""
    return load_autoencoder(request.needed_weights(), request.mode, request.device)


def classifier(request: FeatureRequest) -> FeatureNetwork:
    """Load `classifier` from the cache, or train it."""
    dataset = request.needed_dataset()
    if request.cache_dir is None:
        return train_classifier(dataset).features(request.device)
    return load_or_train_classifier(dataset, request.cache_dir).features(request.device)


def resnet20(request: FeatureRequest) -> FeatureNetwork:
    """Load `resnet20`."""
    return load_resnet(request.needed_weights(), 20, request.device)


def resnet56(request: FeatureRequest) -> FeatureNetwork:
    """Load `resnet56`."""
    return load_resnet(request.needed_weights(), 56, request.device)


def inception(request: FeatureRequest) -> FeatureNetwork:
    """Load `inception` for images of the data set's size."""
    size = NATIVE_SIZE if request.dataset is None else request.dataset.image_size
    return load_inception(request.needed_weights(), size, request.device)
