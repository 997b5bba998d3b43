"""Every row of the table keeps the contract, and says what it lacks."""

import pytest
import torch

from spikediff.data import load_images
from spikediff.errors import UserError
from spikediff.evaluation.features import FEATURES, load_features
from spikediff.evaluation.features.network import FeatureNetwork

FILES = {
    "fad": "fad_autoencoder/mnist_64.pth",
    "resnet20": "cifar10_resnet/resnet20-12fca82f.th",
    "resnet56": "cifar10_resnet/resnet56-4bfd9763.th",
}
WITH_FILES = [(name, mode) for name in FILES for mode in FEATURES[name].modes]


@pytest.mark.parametrize("name", [name for name, row in FEATURES.items() if not row.fetches])
def test_what_is_needed_is_told(name):
    with pytest.raises(UserError, match=f"^{name}: (give|torch_fidelity)"):
        load_features(name)


@pytest.mark.parametrize("name", FEATURES)
def test_unknown_modes_are_refused(name):
    with pytest.raises(UserError, match=f"{name}: unknown mode 'cleen'; did you mean 'clean'"):
        load_features(name, mode="cleen")


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="did you mean 'resnet20'"):
        load_features("resnet2")


@pytest.mark.parametrize(("name", "mode"), WITH_FILES)
def test_contract(name, mode, feature_weights):
    network = load_features(name, weights=feature_weights / FILES[name], mode=mode)
    assert (network.name, network.mode) == (name, mode)
    shape = (9, network.channels, network.image_size, network.image_size)
    images = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0))
    images = images.to(torch.uint8)
    features, probabilities = network(images)
    assert features.shape == (9, network.dimensions)
    assert features.dtype == torch.float32
    assert torch.equal(network(images).features, features)  # no state is kept
    if probabilities is not None:
        torch.testing.assert_close(probabilities.sum(1), torch.ones(9))
    alone = network(images[:1]).features
    independent = torch.allclose(alone, features[:1], atol=1e-4)
    assert independent == (network.batch_size is None)


@pytest.mark.parametrize("name", FILES)
def test_files_of_another_network_are_refused(name, feature_weights, tmp_path):
    other = FILES["fad" if name != "fad" else "resnet20"]
    with pytest.raises(UserError, match=r"keys do not fit|not a Frechet autoencoder"):
        load_features(name, weights=feature_weights / other)
    with pytest.raises(UserError, match="no such file"):
        load_features(name, weights=tmp_path / "absent.pth")


def test_the_wrong_depth_is_refused(feature_weights):
    with pytest.raises(UserError, match=r"180 keys do not fit a CifarResNet"):
        load_features("resnet56", weights=feature_weights / FILES["resnet20"])


def test_a_pickle_with_code_is_refused(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"a": print}, path)
    with pytest.raises(UserError, match="cannot be read as weights"):
        load_features("fad", weights=path)
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="not a state dict"):
        load_features("resnet20", weights=path)


def test_the_user_s_own_network_needs_no_row():
    digits = load_images("digits", "test")
    network = FeatureNetwork(torch.nn.Flatten(), name="module:pixels", image_size=8, channels=1)
    assert network(digits.stack()[:7]).features.shape == (7, 64)
