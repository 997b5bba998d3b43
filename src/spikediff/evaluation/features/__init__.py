"""Feature networks: fixed networks under which images are compared.

A new one is a new file and a row of `FEATURES`; a network of your own needs no row, see
`module_features`.
"""

from pathlib import Path

from spikediff.data import ImageDataset
from spikediff.errors import UserError, suggestion
from spikediff.evaluation.features import loading
from spikediff.evaluation.features.autoencoder import load_autoencoder, load_published_statistics
from spikediff.evaluation.features.classifier import (
    TrainedClassifier,
    TrainingSettings,
    load_or_train_classifier,
    train_classifier,
)
from spikediff.evaluation.features.inception import load_inception
from spikediff.evaluation.features.loading import FeatureRequest, FeatureSpec
from spikediff.evaluation.features.network import (
    MODES,
    Activations,
    ChannelsReplicated,
    FeatureExtractor,
    FeatureNetwork,
    extract,
    module_features,
)
from spikediff.evaluation.features.resnet import load_resnet

__all__ = [
    "FEATURES",
    "MODES",
    "Activations",
    "ChannelsReplicated",
    "FeatureExtractor",
    "FeatureNetwork",
    "FeatureSpec",
    "TrainedClassifier",
    "TrainingSettings",
    "extract",
    "load_autoencoder",
    "load_features",
    "load_inception",
    "load_or_train_classifier",
    "load_published_statistics",
    "load_resnet",
    "module_features",
    "train_classifier",
]

FEATURES: dict[str, FeatureSpec] = {
    "fad": FeatureSpec(
        summary="encoder of the Frechet autoencoder of FSVAE and FSDDIM; 64 latents of 32x32 grey",
        needs="weights: mnist_64.pth or fashion_64.pth",
        load=loading.autoencoder,
        modes=MODES,
    ),
    "classifier": FeatureSpec(
        summary="small classifier that is trained on the data set itself; 128 features",
        needs="a labelled training split",
        load=loading.classifier,
    ),
    "resnet20": FeatureSpec(
        summary="CIFAR-10 ResNet-20; 64 features of 32x32 RGB",
        needs="weights: resnet20-12fca82f.th",
        load=loading.resnet20,
    ),
    "resnet56": FeatureSpec(
        summary="CIFAR-10 ResNet-56; 64 features of 32x32 RGB",
        needs="weights: resnet56-4bfd9763.th",
        load=loading.resnet56,
    ),
    "inception": FeatureSpec(
        summary="Inception v3 of the FID; 2,048 features of RGB images of any size",
        needs="weights: weights-inception-2015-12-05-6726825d.pth; the extra [metrics]",
        load=loading.inception,
    ),
}


def load_features(
    name: str,
    *,
    weights: Path | str | None = None,
    dataset: ImageDataset | None = None,
    mode: str = "clean",
    cache_dir: Path | str | None = None,
    device: str = "cpu",
) -> FeatureNetwork:
    """Load a feature network by name.

    Args:
        name: A key of `FEATURES`.
        weights: File of its weights, for those that are not trained here.
        dataset: The whole training split of the data to be measured: `classifier` learns from it,
            `inception` takes the image size from it.
        mode: `clean`, or `published` where the network has it.
        cache_dir: Where trained classifiers are kept; None trains anew.
        device: Where the network runs.

    Returns:
        The network.

    Raises:
        UserError: An unknown name or mode, or something that it needs is not given.

    Example:
        >>> load_features("clasifier")
        Traceback (most recent call last):
        ...
        spikediff.errors.UserError: unknown feature network 'clasifier'; did you mean 'classifier'?
    """
    if name not in FEATURES:
        raise UserError(f"unknown feature network {name!r}; {suggestion(name, FEATURES)}")
    row = FEATURES[name]
    if mode not in row.modes:
        raise UserError(f"{name}: unknown mode {mode!r}; {suggestion(mode, row.modes)}")
    return row.load(
        FeatureRequest(
            name=name,
            weights=None if weights is None else Path(weights),
            dataset=dataset,
            mode=mode,
            cache_dir=None if cache_dir is None else Path(cache_dir),
            device=device,
        )
    )
