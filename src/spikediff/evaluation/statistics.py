"""Features of many images on the disk, their moments, and statistics that others published."""

from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor

from spikediff.errors import UserError
from spikediff.evaluation.features.autoencoder import load_published_statistics
from spikediff.evaluation.features.network import FeatureNetwork, extract
from spikediff.evaluation.frechet import Moments, RunningMoments, frechet_distance
from spikediff.evaluation.preparation import Preparation
from spikediff.evaluation.shards import Shards, fingerprint_of
from spikediff.evaluation.sources import ImageSource
from spikediff.files.tensors import read_tensors, write_tensors

_BATCH = 64  # images a call of a network whose features do not depend on the batch
_SHARD = 512  # images a file of its features
# Statistics of the same images by the same network: rounding leaves about 1e-9 of the variance on
# one machine and a little more on another; a batch of 250 instead of 256 makes 3e-5.
_SAME = 1e-4


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """What a feature network says of a set of images.

    Attributes:
        shards: Its files.
    """

    shards: Shards

    def features(self) -> Tensor:
        """Return all features, float32 [N, D]."""
        return torch.cat([shard["features"] for shard in self.shards])

    def probabilities(self) -> Tensor | None:
        """Return all class probabilities [N, K]; None where the network knows no classes."""
        parts = [shard["probabilities"] for shard in self.shards if "probabilities" in shard]
        return torch.cat(parts) if parts else None

    def moments(self) -> Moments:
        """Return mean and covariance, kept in a file once they are known."""
        path = self.shards.folder / f"moments-{self.shards.total}.safetensors"
        metadata = {"key": self.shards.key}
        held = read_tensors(path, metadata, ("mean", "covariance"))
        if held is None:
            running = RunningMoments()
            for shard in self.shards:
                running.add(shard["features"])
            moments = running.moments()
            held = {"mean": moments.mean, "covariance": moments.covariance}
            write_tensors(path, held, metadata)
        return Moments(self.shards.total, held["mean"], held["covariance"])


def extract_features(
    network: FeatureNetwork,
    source: ImageSource,
    first: int,
    count: int,
    resize_filter: str | None,
    folder: Path,
    processes: PartialState,
    label: str,
) -> FeatureSet:
    """Compute the features of images, or read what was computed before.

    The files' key is the fingerprint of the images, what is done to them, and the network with its
    mode; so whatever changes any of them finds no old file.

    Args:
        network: The feature network.
        source: The images.
        first: Number of the first image.
        count: How many images.
        resize_filter: PIL's filter, or None to refuse other sizes.
        folder: Where the files lie, in a folder of their own.
        processes: Who shares the work.
        label: What they are, for the folder's name and the progress bar.

    Returns:
        The features.

    Raises:
        UserError: The images do not fit the network.
    """
    prepare = Preparation(network.image_size, network.channels, resize_filter)
    key = fingerprint_of(
        images=source.fingerprint, first=first, filter=resize_filter, network=network.fingerprint
    )

    def make(start: int, rows: int) -> dict[str, Tensor]:
        activations = extract(network, prepare(source.images(first + start, rows)), _BATCH)
        return {name: v for name, v in activations._asdict().items() if v is not None}

    name = f"{label}-{network.name}-{network.mode}-{key[:16]}".replace(":", "-").replace("/", "-")
    shards = Shards(folder / name, key, count, network.batch_size or _SHARD, ("features",))
    shards.fill(make, processes, f"{network.name} features, {label}")
    return FeatureSet(shards)


def read_statistics(path: Path, own: Moments) -> Moments:
    """Read published statistics and check that they are of the reference under the same network.

    Args:
        path: An npz file with `mu` [D] and `sigma` [D, D].
        own: Moments of the reference split, computed here.

    Returns:
        The file's moments; their count is unknown.

    Raises:
        UserError: No such file or arrays, another dimension, or statistics of other images, of
            another network or of another mode.
    """
    stored = load_published_statistics(path)
    if stored.dimensions != own.dimensions:
        raise UserError(
            f"{path}: statistics of {stored.dimensions} dimensions, but the network has "
            f"{own.dimensions}; give those of this network"
        )
    apart = frechet_distance(stored, own)
    if apart > _SAME * float(own.covariance.trace()):
        raise UserError(
            f"{path}: lies {apart:.4g} from the reference split's own statistics; it is of another "
            "data set, network, mode or resize: give the right file, or none"
        )
    return stored
