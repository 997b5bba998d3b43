"""The Frechet autoencoder distance: golden features and the numbers of the published protocol."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from goldens import Golden
from spikediff.data import load_images
from spikediff.errors import UserError
from spikediff.evaluation.feature_cache import load_published_statistics
from spikediff.evaluation.features import load_autoencoder
from spikediff.evaluation.features.autoencoder import AutoencoderEncoder
from spikediff.evaluation.features.network import extract
from spikediff.evaluation.frechet import Moments, frechet_distance


@pytest.fixture(scope="module")
def golden():
    return Golden("C6_fad")


@pytest.fixture(scope="module")
def folder(feature_weights):
    return feature_weights / "fad_autoencoder"


@pytest.mark.parametrize(("mode", "key"), [("clean", "eval"), ("published", "train")])
def test_golden_features(mode, key, golden, folder):
    network = load_autoencoder(folder / "mnist_64.pth", mode)
    features = network(golden["first64/images_uint8"][:, None]).features
    torch.testing.assert_close(features, golden[f"first64/features_{key}"], atol=1e-5, rtol=1e-5)


def test_golden_distance_to_the_published_statistics(golden, folder):
    stored = load_published_statistics(folder / "mnist_test_64.npz")
    values = golden.facts["values"]
    published = frechet_distance(golden["subset/features_train_bs256"], stored)
    assert published == pytest.approx(values["published/bs256_float64_moments"], abs=1e-7)
    mixed = frechet_distance(golden["subset/features_eval"], stored)
    expected = values["mismatch_eval_features_vs_published_stats"]
    assert mixed == pytest.approx(expected, abs=1e-5)


def test_modes_differ_in_batch_dependence_and_name(golden, folder):
    images = golden["first64/images_uint8"][:, None]
    clean, published = (
        load_autoencoder(folder / "mnist_64.pth", mode) for mode in ("clean", "published")
    )
    assert (clean.batch_size, published.batch_size) == (None, 256)
    assert clean.fingerprint != published.fingerprint
    alone = clean(images[:1]).features
    torch.testing.assert_close(alone, clean(images).features[:1], atol=1e-5, rtol=1e-5)
    assert (published(images[:8]).features - published(images).features[:8]).abs().max() > 0.1


def test_safetensors_without_decoder_are_as_good(folder, tmp_path, golden):
    path = folder / "mnist_64.pth"
    state = torch.load(path, weights_only=True, map_location="cpu")
    kept = {k: v.clone() for k, v in state.items() if not k.startswith(("decoder", "final"))}
    save_file(kept, tmp_path / "encoder.safetensors")
    original, copy = load_autoencoder(path), load_autoencoder(tmp_path / "encoder.safetensors")
    assert original.fingerprint == copy.fingerprint


def test_sizes_are_read_off_the_weights_and_faults_named(tmp_path):
    state = AutoencoderEncoder(3, 128, batch_statistics=False).state_dict()
    path = tmp_path / "colour.safetensors"
    save_file(state, path)
    network = load_autoencoder(path)
    assert (network.channels, network.dimensions, network.image_size) == (3, 128, 32)
    del state["encoder.2.1.bias"]
    state["encoder.1.0.bias"] = torch.zeros(5)
    save_file(state, path)
    with pytest.raises(
        UserError, match=r"2 keys do not fit .*: missing encoder.2.1.bias; .* \(5,\), not \(64,\)"
    ):
        load_autoencoder(path)


def test_other_weights_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"fc.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(UserError, match=r"not a Frechet autoencoder .*; give mnist_64\.pth"):
        load_autoencoder(path)


def test_statistics_files_that_are_none_are_refused(tmp_path):
    path = tmp_path / "stats.npz"
    with pytest.raises(UserError, match="no such file"):
        load_published_statistics(path)
    path.write_bytes(b"not a zip")
    with pytest.raises(UserError, match=r"not an .npz"):
        load_published_statistics(path)
    np.savez(path, mu=np.zeros(3))
    with pytest.raises(UserError, match=r"mu and sigma .*sigma"):
        load_published_statistics(path)
    np.savez(path, mu=np.zeros(3), sigma=np.array([{"code": print}], dtype=object))
    with pytest.raises(UserError, match=r"not an .npz"):
        load_published_statistics(path)
    np.savez(path, mu=np.zeros(3), sigma=np.array(["a"]))
    with pytest.raises(UserError, match=r"mu and sigma \(holds <U1\)"):
        load_published_statistics(path)
    np.savez(path, mu=np.zeros(3), sigma=np.zeros((2, 2)))
    with pytest.raises(UserError, match=r"\[3\] and \[2, 2\]"):
        load_published_statistics(path)
    np.savez(path, mu=np.ones(2, np.float32), sigma=np.eye(2))
    assert load_published_statistics(path).count is None


FLOORS = {  # (10,000 real training images, the test set padded to 32x32), by data set and mode
    ("mnist", "published"): (2.2286, 86.327),
    ("mnist", "clean"): (2.3395, 92.406),
    ("fashion-mnist", "published"): (0.5767, 94.518),
    ("fashion-mnist", "clean"): (0.5937, 124.257),
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mode"), FLOORS)
def test_floors(name, mode, folder, real_data):
    """Dossier, section 5.1: 2.23 and 2.34 on MNIST; a wrong resize alone costs 86."""
    short = name.split("-")[0]
    network = load_autoencoder(folder / f"{short}_64.pth", mode)

    def moments(images):
        return Moments.of(extract(network, images).features)

    test = moments(load_images(name, "test", image_size=32, data_dir=real_data).stack())
    stored = load_published_statistics(folder / f"{short}_test_64.npz")
    reference = stored if mode == "published" else test
    assert (frechet_distance(test, stored) < 1e-6) == (mode == "published")
    chosen = torch.from_numpy(np.random.default_rng(0).permutation(60_000)[:10_000])
    train = load_images(name, "train", image_size=32, data_dir=real_data).stack()[chosen]
    padded = F.pad(load_images(name, "test", data_dir=real_data).stack(), (2, 2, 2, 2))
    floor, wrong = FLOORS[name, mode]
    assert frechet_distance(moments(train), reference) == pytest.approx(floor, abs=1e-3)
    assert frechet_distance(moments(padded), reference) == pytest.approx(wrong, abs=2e-2)
