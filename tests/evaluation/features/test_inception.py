"""Inception through torch-fidelity: what is passed to it, and what is said where it is absent."""

import sys
import types

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from spikediff.errors import UserError
from spikediff.evaluation.features import load_features, load_inception, pretrained

MODULE = "torch_fidelity.feature_extractor_inceptionv3"


class FakeExtractor(nn.Module):
    """The interface of torch-fidelity 0.4, with four numbers in the place of a network."""

    def __init__(self, name, features_list, feature_extractor_weights_path=None):
        super().__init__()
        self.features_list = features_list
        self.w = nn.Parameter(torch.zeros(4))
        self.load_state_dict(torch.load(feature_extractor_weights_path, weights_only=False))

    def forward(self, images):
        assert images.dtype == torch.uint8
        assert images.shape[1] == 3
        mean = images.float().mean((1, 2, 3))[:, None]
        found = {"2048": mean * self.w, "logits_unbiased": mean * self.w[:2]}
        return tuple(found[name] for name in self.features_list)


@pytest.fixture
def torch_fidelity(monkeypatch):
    module = types.ModuleType(MODULE)
    module.FeatureExtractorInceptionV3 = FakeExtractor
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, MODULE, module)


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "inception.safetensors"
    save_file({"w": torch.tensor([1.0, 2, 3, 4])}, path)
    return path


@pytest.mark.usefixtures("torch_fidelity")
def test_features_and_probabilities(weights):
    network = load_inception(weights, image_size=8)
    assert (network.name, network.channels, network.image_size) == ("inception", 3, 8)
    features, probabilities = network(torch.full((2, 3, 8, 8), 10, dtype=torch.uint8))
    assert features.tolist() == [[10, 20, 30, 40]] * 2
    torch.testing.assert_close(probabilities[0], torch.tensor([10.0, 20.0]).softmax(0))


@pytest.mark.usefixtures("torch_fidelity")
def test_other_weights_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"w": torch.zeros(5)}, path)
    with pytest.raises(UserError, match="not the weights of Inception v3"):
        load_inception(path)


@pytest.mark.usefixtures("torch_fidelity")
def test_a_pickle_with_code_never_reaches_torch_fidelity(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"w": print}, path)  # torch-fidelity itself would run what it unpickles
    with pytest.raises(UserError, match="cannot be read as weights"):
        load_inception(path)


def test_absent_package_is_told_with_the_line_that_installs_it(weights, monkeypatch):
    monkeypatch.setitem(sys.modules, MODULE, None)  # as if not installed
    with pytest.raises(UserError, match="is not installed; pip install 'timm>="):
        load_features("inception", weights=weights)


def test_a_torchvision_of_another_release_is_told_of(weights, monkeypatch):
    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(pretrained.importlib, "import_module", broken)
    with pytest.raises(
        UserError, match=r"does not import \(operator torchvision::nms .* one release"
    ):
        load_features("inception", weights=weights)
