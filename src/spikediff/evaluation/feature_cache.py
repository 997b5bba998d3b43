"""Features of many images on disk, their moments, and published statistics."""

from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor

from spikediff.data.arrays import read_npz
from spikediff.errors import UserError
from spikediff.evaluation.features.network import FeatureNetwork, extract, prepare
from spikediff.evaluation.frechet import Moments, RunningMoments, frechet_distance
from spikediff.evaluation.shards import Shards, fingerprint_of
from spikediff.evaluation.sources import ImageSource
from spikediff.files.tensors import read_tensors, write_tensors

_BATCH = 64  # images per call of a network whose features do not depend on the batch
_SHARD = 512  # images per file of its features
# For the same images and network, statistics differ by rounding: about 1e-9 of the variance on one
# machine and slightly more on another. A batch of 250 instead of 256 makes 3e-5.
_SAME = 1e-4


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """The features of a set of images."""

    shards: Shards
    published: Moments | None = None  # moments to use instead of the features' own

    def __len__(self) -> int:
        return self.shards.total

    def features(self) -> Tensor:
        """Return all features, float32 [N, D]."""
        return torch.cat([shard["features"] for shard in self.shards])

    def probabilities(self) -> Tensor | None:
        """Return class probabilities [N, K]; None if the network has no classes."""
        parts = [shard["probabilities"] for shard in self.shards if "probabilities" in shard]
        return torch.cat(parts) if parts else None

    def moments(self) -> Moments:
        """Return mean and covariance, which are cached in a file."""
        if self.published is not None:
            return self.published
        path = self.shards.folder / f"moments-{len(self)}.safetensors"
        metadata = {"key": self.shards.key}
        held = read_tensors(path, metadata, ("mean", "covariance"))
        if held is None:
            running = RunningMoments()
            for shard in self.shards:
                running.add(shard["features"])
            moments = running.moments()
            held = {"mean": moments.mean, "covariance": moments.covariance}
            write_tensors(path, held, metadata)
        return Moments(len(self), held["mean"], held["covariance"])


def features(
    images: ImageSource,
    rows: range,
    network: FeatureNetwork,
    folder: Path,
    label: str,
    *,
    resize_filter: str | None,
    processes: PartialState,
) -> FeatureSet:
    """Compute the features of the images `rows`, or read them from the cache.

    The files lie in a subfolder of `folder`. Their key covers the images, their preparation, and
    the network with its mode. `label` names the subfolder and the progress bar. `resize_filter`
    applies to networks without their own filter; None refuses other sizes.
    """
    resize_filter = network.resize_filter or resize_filter
    key = fingerprint_of(
        images=images.fingerprint,
        first=rows.start,
        filter=resize_filter,
        network=network.fingerprint,
    )

    def make(first: int, count: int) -> dict[str, Tensor]:
        pixels = images.take(rows.start + first, count)
        fitted = prepare(pixels, network.image_size, network.channels, resize_filter)
        activations = extract(network, fitted, _BATCH)
        return {name: v for name, v in activations._asdict().items() if v is not None}

    name = f"{label}-{network.name}-{network.mode}-{key[:16]}".replace(":", "-").replace("/", "-")
    size = network.batch_size or _SHARD
    shards = Shards(folder / name, key, len(rows), size, needed=("features",))
    shards.fill(make, processes, f"{network.name} features, {label}")
    return FeatureSet(shards)


def read_statistics(path: Path, own: Moments) -> Moments:
    """Read published statistics, and check them against the reference split's `own` moments."""
    stored = load_published_statistics(path)
    if stored.dimensions != own.dimensions:
        raise UserError(
            f"{path}: statistics of {stored.dimensions} dimensions, but the network has "
            f"{own.dimensions}; give those of this network"
        )
    apart = frechet_distance(stored, own)
    if apart > _SAME * float(own.covariance.trace()):
        raise UserError(
            f"{path}: differs by {apart:.4g} from the reference split's own statistics; it belongs "
            "to another data set, network, mode or resize: give the right file, or omit it"
        )
    return stored


def load_published_statistics(path: Path | str) -> Moments:
    """Read the statistics that FSDDIM's authors ship: an npz with `mu` [D] and `sigma` [D, D].

    For example `mnist_test_64.npz`, from 10,000 images; it fits only mode `published`.
    """
    try:
        arrays = read_npz(Path(path), ("mu", "sigma"))
    except UserError as error:
        raise UserError(f"{path}: not an .npz with arrays mu and sigma ({error})") from error
    for array in arrays:
        if array.dtype.kind not in "fiu":
            raise UserError(f"{path}: not an .npz with arrays mu and sigma (holds {array.dtype})")
    mu, sigma = (torch.from_numpy(array).double() for array in arrays)
    return Moments(None, mu, sigma)
