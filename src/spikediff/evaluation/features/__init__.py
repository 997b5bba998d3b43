"""The table of feature networks. To add one, write a file and add a row to `FEATURES`.

To use your own network without a row, see `network.FeatureNetwork`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from spikediff.data import ImageDataset
from spikediff.errors import UserError, check_known
from spikediff.evaluation.features.autoencoder import load_autoencoder
from spikediff.evaluation.features.classifier import load_classifier
from spikediff.evaluation.features.network import MODES, FeatureNetwork
from spikediff.evaluation.features.pretrained import (
    DINOV2,
    NATIVE_SIZE,
    PREFIX,
    load_inception,
    load_pretrained,
)
from spikediff.evaluation.features.resnet import load_resnet

ANY = "*"


@dataclass(frozen=True)
class FeatureSpec:
    """A row of the table."""

    summary: str
    # Builds the network; takes the arguments of `load_features` by name.
    load: Callable[..., FeatureNetwork]
    # Data set (`*`: any) -> published name of the weights. Empty if it needs none.
    files: Mapping[str, str] = field(default_factory=dict)
    modes: tuple[str, ...] = ("clean",)
    fetches: bool = False  # whether weights are downloaded if no file is given


_RESNET20, _RESNET56 = "resnet20-12fca82f.th", "resnet56-4bfd9763.th"

FEATURES: dict[str, FeatureSpec] = {
    "fad": FeatureSpec(
        summary="encoder of the Frechet autoencoder of FSVAE and FSDDIM; 64 latents of 32x32 grey",
        load=lambda weights, mode, device, **_: load_autoencoder(weights, mode, device),
        files={"mnist": "mnist_64.pth", "fashion-mnist": "fashion_64.pth"},
        modes=MODES,
    ),
    "classifier": FeatureSpec(
        summary="small classifier that is trained on the data set itself; 128 features",
        load=lambda dataset, cache_dir, device, **_: load_classifier(dataset, cache_dir, device),
    ),
    "resnet20": FeatureSpec(
        summary="CIFAR-10 ResNet-20; 64 features of 32x32 RGB",
        load=lambda weights, device, **_: load_resnet(weights, 20, device),
        files={"cifar10": _RESNET20, "cifar10-lossless-subset": _RESNET20},
    ),
    "resnet56": FeatureSpec(
        summary="CIFAR-10 ResNet-56; 64 features of 32x32 RGB",
        load=lambda weights, device, **_: load_resnet(weights, 56, device),
        files={"cifar10": _RESNET56, "cifar10-lossless-subset": _RESNET56},
    ),
    "inception": FeatureSpec(
        summary="Inception v3 of the FID; 2,048 features of RGB images of any size",
        load=lambda weights, dataset, device, **_: load_inception(
            weights, NATIVE_SIZE if dataset is None else dataset.image_size, device
        ),
        files={ANY: "weights-inception-2015-12-05-6726825d.pth"},
    ),
    "dinov2": FeatureSpec(
        summary="DINOv2 ViT-S/14 at 224 pixels, of timm; 384 features that need no labels",
        load=lambda weights, device, **_: load_pretrained("dinov2", weights, device),
        files={ANY: f"{DINOV2}.safetensors"},
        fetches=True,
    ),
}


def find_features(name: str) -> FeatureSpec:
    """Return the row of a feature network: of `FEATURES`, or a new one for `timm:MODEL`."""
    if name.startswith(PREFIX):
        return FeatureSpec(
            summary=f"{name.removeprefix(PREFIX)} of timm",
            load=lambda weights, device, **_: load_pretrained(name, weights, device),
            files={ANY: f"{name.removeprefix(PREFIX)}.safetensors"},
            fetches=True,
        )
    check_known("feature network", name, FEATURES)
    return FEATURES[name]


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
        name: A key of `FEATURES`, or `timm:MODEL` for any model of timm.
        weights: File of its weights; `classifier` needs none, and those of timm can be downloaded.
        dataset: The complete training split of the data to measure: `classifier` is trained on it,
            `inception` takes the image size from it.
        mode: `clean`, or `published` for networks that support it.
        cache_dir: Folder that stores trained classifiers; None trains again.
        device: Device of the network.

    Raises:
        UserError: The name or mode is unknown, or a file or data set is missing.

    Example:
        >>> load_features("clasifier")
        Traceback (most recent call last):
        ...
        spikediff.errors.UserError: unknown feature network 'clasifier'; did you mean 'classifier'?
    """
    row = find_features(name)
    check_known("mode", mode, row.modes, f"{name}: ")
    if row.files and weights is None and not row.fetches:
        raise UserError(f"{name}: give the file of its weights")
    return row.load(weights=weights, dataset=dataset, mode=mode, cache_dir=cache_dir, device=device)
