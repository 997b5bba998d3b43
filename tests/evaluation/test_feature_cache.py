"""Features on the disk: computed once, in the right batches, and never taken for others."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from accelerate import PartialState

from spikediff.data import load_images
from spikediff.errors import UserError
from spikediff.evaluation.feature_cache import features, read_statistics
from spikediff.evaluation.features import load_features
from spikediff.evaluation.features.network import Activations
from spikediff.evaluation.frechet import Moments
from spikediff.evaluation.sources import real_images

TEST = real_images(load_images("digits", "test"))


@dataclass
class Counting:
    """The pixels; remembers the sizes of its batches."""

    batch_size: int | None = None
    fingerprint: str = "f"
    name: str = "counting"
    mode: str = "clean"
    dimensions: int = 64
    image_size: int = 8
    channels: int = 1
    resize_filter: str | None = None

    def __post_init__(self):
        self.batches = []

    def __call__(self, images):
        self.batches.append(len(images))
        return Activations(images.flatten(1).float(), None)


@pytest.fixture
def extract(tmp_path):
    def run(network, source=TEST, first=0, count=150, resize_filter="bilinear"):
        return features(
            source,
            range(first, first + count),
            network,
            tmp_path,
            "test",
            resize_filter=resize_filter,
            processes=PartialState(),
        )

    return run


def test_features_and_moments_are_those_of_the_images(extract):
    found = extract(Counting(), first=3)
    pixels = TEST.take(3, 150).flatten(1).float()
    assert torch.equal(found.features(), pixels)
    assert found.probabilities() is None
    for _ in range(2):  # computed, then read
        moments = found.moments()
        torch.testing.assert_close(moments.mean, Moments.of(pixels).mean)
        torch.testing.assert_close(moments.covariance, Moments.of(pixels).covariance)
        assert moments.count == 150


def test_a_network_of_batch_statistics_gets_its_batches_in_order(extract):
    network = Counting(batch_size=32)
    found = extract(network)
    assert network.batches == [32, 32, 32, 32, 22]
    assert torch.equal(found.features(), TEST.take(0, 150).flatten(1).float())


def test_nothing_is_computed_twice_and_nothing_is_mistaken(extract):
    extract(Counting())
    for network, change, again in [
        (Counting(), {}, False),
        (Counting(fingerprint="g"), {}, True),
        (Counting(batch_size=32, fingerprint="p"), {}, True),
        (Counting(), {"first": 1}, True),
        (Counting(), {"resize_filter": "bicubic"}, True),
        (Counting(), {"source": real_images(load_images("digits", "train"))}, True),
        (Counting(), {"count": 149}, True),
    ]:
        extract(network, **change)
        assert bool(network.batches) == again


def test_a_damaged_cache_is_rebuilt(extract, caplog):
    found = extract(Counting())
    expected = found.moments()
    for path in found.shards.folder.iterdir():
        path.write_bytes(path.read_bytes()[:-3])
    network = Counting()
    again = extract(network)
    assert network.batches
    assert torch.equal(again.moments().covariance, expected.covariance)
    assert caplog.text.count("made again") == 2


def test_published_statistics_must_be_of_the_reference(extract, tmp_path):
    own = extract(Counting()).moments()
    mu, sigma = own.mean.numpy(), own.covariance.numpy()

    def stored(mu, sigma):
        np.savez(tmp_path / "s.npz", mu=mu.astype(np.float32), sigma=sigma)
        return read_statistics(tmp_path / "s.npz", own)

    assert torch.allclose(stored(mu, sigma).covariance, own.covariance)
    with pytest.raises(UserError, match="another data set"):
        stored(mu * 1.1, sigma)
    with pytest.raises(UserError, match="another data set"):
        stored(mu, sigma * 1.1)
    with pytest.raises(UserError, match="63 dimensions"):
        stored(mu[1:], sigma[1:, 1:])


@pytest.mark.slow
def test_the_authors_statistics_are_those_of_the_mnist_test_set(
    extract, real_data, feature_weights
):
    folder = feature_weights / "fad_autoencoder"
    test = real_images(load_images("mnist", "test", data_dir=real_data))
    own = {
        mode: extract(
            load_features("fad", weights=folder / "mnist_64.pth", mode=mode), test, count=10_000
        ).moments()
        for mode in ("published", "clean")
    }
    read_statistics(folder / "mnist_test_64.npz", own["published"])
    for other, moments in [("mnist_test_64", own["clean"]), ("fashion_test_64", own["published"])]:
        with pytest.raises(UserError, match="another data set, network, mode"):
            read_statistics(folder / f"{other}.npz", moments)
