"""The CIFAR-10 ResNet: its shortcut without parameters, and what it recognises."""

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from spikediff.data import load_images
from spikediff.errors import UserError
from spikediff.evaluation.features import load_features, load_resnet
from spikediff.evaluation.features.resnet import CifarResNet, to_imagenet_range

FILES = {20: "resnet20-12fca82f.th", 56: "resnet56-4bfd9763.th"}


@pytest.mark.parametrize(("depth", "parameters"), [(20, 269_722), (56, 853_018)])
def test_parameter_counts(depth, parameters):
    """He et al., table 6: 0.27 and 0.85 million."""
    assert sum(p.numel() for p in CifarResNet(depth).parameters()) == parameters


def test_a_silent_block_passes_its_shortcut():
    block = CifarResNet(8).eval().layer2[0]
    torch.nn.init.zeros_(block.bn2.weight)
    x = torch.randn(2, 16, 6, 6, generator=torch.Generator().manual_seed(0))
    out = block(x)
    assert torch.equal(out[:, 8:24], F.relu(x[:, :, ::2, ::2]))  # every other pixel, in the middle
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


def test_range_is_that_of_imagenet():
    grey = to_imagenet_range(torch.tensor([124, 116, 104]).byte().view(1, 3, 1, 1)).flatten()
    torch.testing.assert_close(grey, torch.zeros(3), atol=0.01, rtol=0)  # its mean colour
    white = to_imagenet_range(torch.full((1, 3, 1, 1), 255).byte()).flatten()
    torch.testing.assert_close(white, torch.tensor([0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225]))


def test_weights_without_counters_are_loaded_and_logits_are_linear_in_the_features(tmp_path):
    """The published files have no counters of batches."""
    module = CifarResNet(8).eval()
    state = {k: v for k, v in module.state_dict().items() if "num_batches_tracked" not in k}
    save_file(state, tmp_path / "w.safetensors")
    network = load_resnet(tmp_path / "w.safetensors", depth=8)
    images = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    found = network(images.byte())
    assert (network.name, network.dimensions) == ("resnet8", 64)
    logits = F.linear(found.features, state["linear.weight"], state["linear.bias"])
    torch.testing.assert_close(found.probabilities, logits.softmax(1))


def test_depths_that_no_network_has_are_refused(tmp_path):
    with pytest.raises(UserError, match="choose 20 or 56"):
        load_resnet(tmp_path / "w.th", depth=18)


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "expected"), [(20, 0.915), (56, 0.926)])
def test_it_recognises_photographs(depth, expected, feature_weights, real_data):
    test = load_images("cifar10-lossless-subset", "test", data_dir=real_data / "cifar10")
    weights = feature_weights / "cifar10_resnet" / FILES[depth]
    network = load_features(f"resnet{depth}", weights=weights)
    right = network(test.stack()).probabilities.argmax(1) == test.labels
    assert right.float().mean().item() == pytest.approx(expected, abs=2e-3)
