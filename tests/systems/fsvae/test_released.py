"""The authors' FSVAE checkpoints: what the weights tell, and what is said of misfits."""

import json

import pytest
import torch

from goldens import GOLDEN, Golden
from spikediff.errors import UserError
from spikediff.systems.released import load_authors_checkpoint

KEYS = json.loads((GOLDEN / "C6_default_keys.json").read_text())
GREY = "FSVAE 1 channel (MNIST)"
COLOUR = "FSVAE 3 channels (CIFAR10), differences"
LARGE = "FSVAELarge 3 channels (CelebA 64x64), complete"


def zeros(*names):
    described = {key: kind for name in names for key, kind in KEYS[name]["state_dict"].items()}
    return {
        key: torch.zeros(shape, dtype=getattr(torch, dtype))
        for key, (dtype, shape) in described.items()
    }


@pytest.fixture(scope="module")
def c6():
    return Golden("C6_fsvae")


@pytest.mark.parametrize(
    ("names", "sample_size", "channels"),
    [
        ([GREY], 32, [32, 64, 128, 256]),
        ([GREY, COLOUR], 32, [32, 64, 128, 256]),
        ([LARGE], 64, [32, 64, 128, 256, 512]),
    ],
)
def test_full_size_checkpoints(names, sample_size, channels):
    model = load_authors_checkpoint(zeros(*names), "fsvae", sample_size=sample_size)
    assert not model.training
    assert sum(p.numel() for p in model.parameters()) == KEYS[names[-1]]["parameters"]
    config = model.config
    assert list(config.channels) == channels
    assert (config.latent_channels, config.group_size, config.spiking_steps) == (128, 20, 16)
    assert config.in_channels == (1 if names == [GREY] else 3)
    assert all(not p.any() for p in model.parameters())


def test_sizes_are_read_off_the_weights(c6):
    model = load_authors_checkpoint(c6.state(), "fsvae", spiking_steps=4)
    facts = c6.facts["config"]
    assert model.config.spiking_steps == facts["n_steps"] == 16  # not the 4 of the caller
    assert model.config.latent_channels == facts["latent_dim"]
    assert model.config.group_size == facts["k"]
    assert sum(p.numel() for p in model.parameters()) == facts["parameter_count"]


def test_a_file(c6, tmp_path):
    torch.save(c6.state(), tmp_path / "best.pth")
    model = load_authors_checkpoint(tmp_path / "best.pth", "fsvae")
    want = load_authors_checkpoint(c6.state(), "fsvae")
    for (name, a), b in zip(model.state_dict().items(), want.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_faults_are_listed_all_of_them(c6):
    state = c6.state()
    del state["final_layer.0.bn.bias"], state["prior.layers.1.weight"]
    state["fc_mu.weight"] = torch.zeros(1)
    state["decoder_input.bias"] = torch.zeros(3)
    with pytest.raises(UserError, match="FSVAE checkpoint: 4 keys") as caught:
        load_authors_checkpoint(state, "fsvae")
    for fault in (
        "missing final_layer.0.bn.bias",
        "missing prior.layers.1.weight",
        "unknown fc_mu.weight",
        "decoder_input.bias has shape (3,), not (1024,)",
    ):
        assert fault in str(caught.value)


TELLING = ("encoder.0", "before_latent_layer", "prior.layers.2")


@pytest.mark.parametrize("key", [*(f"{k}.weight" for k in TELLING), "membrane_output_layer.coef"])
def test_other_networks_are_told(c6, key):
    state = c6.state()
    del state[key]
    with pytest.raises(UserError, match=f"not an FSVAE state dict: .*{key}"):
        load_authors_checkpoint(state, "fsvae")
    with pytest.raises(UserError, match="not an FSVAE state dict"):
        load_authors_checkpoint({"encoder.weight": torch.zeros(2, 2)}, "fsvae")


def test_another_image_size_is_told(c6):
    with pytest.raises(UserError, match="for images of 32 pixels, not sample_size = 64"):
        load_authors_checkpoint(c6.state(), "fsvae", sample_size=64)
