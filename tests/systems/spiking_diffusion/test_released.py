"""The authors' Spiking-Diffusion checkpoints: full size, what the weights tell, misfits."""

import json

import pytest
import torch

from goldens import GOLDEN, Golden
from spikediff.errors import UserError
from spikediff.systems.released import load_authors_checkpoint


def zeros(name):
    """A full-size state dict of the authors', of zeros, and its number of parameters."""
    (row,) = json.loads((GOLDEN / f"{name}.json").read_text()).values()
    state = {
        key: torch.zeros(shape, dtype=getattr(torch, dtype))
        for key, (dtype, shape) in row["state_dict"].items()
    }
    return state, row["parameters"]


def test_the_full_autoencoder():
    state, parameters = zeros("C4_default_keys")
    model = load_authors_checkpoint(state, "spiking-diffusion", sample_size=28)
    assert model.num_parameters() == parameters == 50_658
    assert not model.training
    assert all((value == 0).all() for value in model.state_dict().values())
    config = model.config
    assert (config.codebook_size, config.embedding_channels) == (128, 16)
    assert tuple(config.widths) == (32, 64)
    assert tuple(config.input_range) == (-0.5, 0.5)
    assert config.spiking_steps == 16, "the weights of the read-out tell it"


def test_the_full_decoder():
    state, parameters = zeros("C5_default_keys")
    model = load_authors_checkpoint(state, "spiking-diffusion-decoder", spiking_steps=16)
    assert model.num_parameters() == parameters == 3_101_504
    assert not model.training
    assert tuple(model.config.widths) == (64, 128, 256, 512, 256)
    assert model.config.codebook_size == 128
    assert model.config.input == "raw"
    assert model(torch.full((1, 7, 7), 128), 49).sample.shape == (1, 128, 7, 7)


def test_files_as_torch_saves_them(tmp_path):
    golden = Golden("C4_vqsvae")
    torch.save(golden.state(), tmp_path / "model.pth")
    model = load_authors_checkpoint(tmp_path / "model.pth", "spiking-diffusion", sample_size=28)
    with torch.no_grad():
        assert torch.equal(model.encode(golden["in/image"]), golden["out/tokens"])


def test_faults_are_listed():
    state, _ = zeros("C4_default_keys")
    del state["vq_layer.alpha"], state["decoder.snn_convs.6.bias"]
    state["fc.weight"] = torch.zeros(1)
    with pytest.raises(UserError, match="Spiking-Diffusion checkpoint: 3 keys") as caught:
        load_authors_checkpoint(state, "spiking-diffusion", sample_size=28)
    for fault in (
        "missing vq_layer.alpha",
        "missing decoder.snn_convs.6.bias",
        "unknown fc.weight",
    ):
        assert fault in str(caught.value)


@pytest.mark.parametrize("system", ["spiking-diffusion", "spiking-diffusion-decoder"])
def test_other_networks_are_told(system):
    with pytest.raises(UserError, match=r"not a Spiking-Diffusion"):
        load_authors_checkpoint(Golden("A1_sddpm_unet").state(), system, sample_size=28)
    half = {k: v for k, v in zeros("C4_default_keys")[0].items() if "embeddings" not in k}
    with pytest.raises(UserError, match=r"not a Spiking-Diffusion"):
        load_authors_checkpoint(half, system, sample_size=28)
