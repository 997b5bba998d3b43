"""The contract of feature networks: what they take, what they keep, what names them."""

import warnings

import pytest
import torch
from torch import nn

from spikediff.errors import UserError
from spikediff.evaluation.features.network import (
    ChannelsReplicated,
    FeatureNetwork,
    extract,
)
from spikediff.files.tensors import state_digest


def network(module=None, **changes):
    arguments = {"name": "module:tiny", "image_size": 4, "channels": 3} | changes
    return FeatureNetwork(nn.Flatten() if module is None else module, **arguments)


def images(*shape, dtype=torch.uint8):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, generator=generator).to(dtype)


class WithLogits(nn.Module):
    def forward(self, x):
        return x.flatten(1), x.mean(dim=(2, 3))


class Frail(nn.Module):
    """NaN on bright images."""

    def forward(self, x):
        return (1 - x).sqrt().flatten(1) / (x < 1).flatten(1)


def test_bytes_reach_the_module_in_its_range():
    x = images(2, 3, 4, 4)
    features = network()(x).features
    torch.testing.assert_close(features, (x / 127.5 - 1).flatten(1))
    raw = network(normalise=torch.Tensor.float)(x).features
    assert torch.equal(raw, x.float().flatten(1))


def test_logits_become_probabilities():
    x = images(5, 3, 4, 4)
    activations = network(WithLogits())(x)
    assert torch.equal(activations.probabilities, (x / 127.5 - 1).mean((2, 3)).softmax(1))
    assert network()(x).probabilities is None


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (images(2, 3, 4, 5), r"uint8 \[2, 3, 4, 5\]"),
        (images(2, 3, 8, 8), r"uint8 \[2, 3, 8, 8\]"),
        (images(2, 2, 4, 4), r"uint8 \[2, 2, 4, 4\]"),
        (images(3, 4, 4), r"uint8 \[3, 4, 4\]"),
        (images(0, 3, 4, 4), r"uint8 \[0, 3, 4, 4\]"),
        (images(2, 3, 4, 4, dtype=torch.float32), r"float32 \[2, 3, 4, 4\]"),
    ],
)
def test_other_images_are_refused_and_both_named(wrong, found):
    with pytest.raises(UserError, match=rf"expected uint8 \[B, 3, 4, 4\], got {found}"):
        network()(wrong)


def test_colour_is_never_turned_grey_unasked():
    with pytest.raises(UserError, match=r"expected uint8 \[B, 1, 4, 4\]"):
        network(channels=1)(images(2, 3, 4, 4))


def test_grey_is_replicated_and_told_of_once():
    grey, colour_network = images(2, 1, 4, 4), network()
    with pytest.warns(ChannelsReplicated, match="3 channels"):
        features = colour_network(grey).features
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = colour_network(grey).features
    assert torch.equal(features, colour_network(grey.repeat(1, 3, 1, 1)).features)
    assert torch.equal(features, again)


def test_nan_features_are_refused():
    frail = network(Frail())
    frail(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(UserError, match="module:tiny: features contain NaN"):
        frail(torch.full((1, 3, 4, 4), 255, dtype=torch.uint8))


def test_modules_that_do_not_fit_are_told_at_once():
    for module in (nn.Conv2d(5, 2, 3), nn.Flatten(5)):  # a RuntimeError, an IndexError
        with pytest.raises(UserError, match="does not take images"):
            network(module)
    with pytest.raises(UserError, match=r"features must be \[B, D\]"):
        network(nn.Conv2d(3, 2, 3))


def test_module_is_copied_and_kept_in_evaluation_mode():
    module = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Flatten())
    made = network(module)
    fingerprint, x = made.fingerprint, images(6, 3, 4, 4)
    first = made(x).features
    with torch.no_grad():
        module[0].weight.fill_(7)  # the owner trains on
    assert module.training
    assert torch.equal(made(x).features, first)
    assert not first.requires_grad
    assert made.fingerprint == fingerprint == FeatureNetwork._hash(made)  # buffers are untouched


def test_fingerprint_names_weights_layout_and_settings():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    same = network(module).fingerprint
    assert network(module).fingerprint == same
    others = [
        network(module, name="other"),
        network(module, normalise=torch.Tensor.float),
        network(nn.Sequential(*module, nn.ReLU())),
        FeatureNetwork(module, name="module:tiny", image_size=4, channels=3, mode="published"),
        FeatureNetwork(module, name="module:tiny", image_size=4, channels=3, batch_size=9),
    ]
    with torch.no_grad():
        module[1].weight[0, 0] += 1e-6
    others.append(network(module))
    assert len({same, *(other.fingerprint for other in others)}) == 7


def test_digest_sees_names_shapes_and_bytes_but_not_the_order():
    a, b = torch.arange(4.0), torch.zeros(2, dtype=torch.bfloat16)
    digest = state_digest({"a": a, "b": b})
    assert state_digest({"b": b, "a": a}) == digest
    for other in ({"b": a, "a": b}, {"a": a.view(2, 2), "b": b}, {"a": -a, "b": b}, {"a": a}):
        assert state_digest(other) != digest


def test_extract_is_the_network_batch_by_batch():
    made, x = network(WithLogits()), images(10, 3, 4, 4)
    whole = extract(made, x, batch_size=3)
    assert torch.equal(whole.features, made(x).features)
    assert torch.equal(whole.probabilities, made(x).probabilities)


def test_a_network_that_depends_on_the_batch_sets_its_size():
    class Centred(nn.Module):
        def forward(self, x):
            return (x - x.mean(0)).flatten(1)

    made = FeatureNetwork(Centred(), name="c", image_size=4, channels=3, batch_size=4)
    x = images(10, 3, 4, 4)
    with pytest.raises(UserError, match="pass 4 images at a time, not 10"):
        made(x)
    parts = torch.cat([made(part).features for part in x.split(4)])
    assert torch.equal(extract(made, x, batch_size=7).features, parts)
