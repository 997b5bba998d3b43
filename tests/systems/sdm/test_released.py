"""The authors' SDM checkpoints: what the weights tell, and what is said of misfits."""

import pytest
import torch

from goldens import Golden
from spikediff.errors import UserError
from spikediff.layers.temporal_scaling import scaling_factors
from spikediff.systems.released import load_authors_checkpoint


@pytest.fixture(scope="module")
def a2():
    return Golden("A2_sdm_tsm_unet")


def estimate(model, a2):
    with torch.no_grad():
        return model(a2["in/x"], a2["in/t"]).sample


def test_a_training_checkpoint_in_a_file(a2, tmp_path):
    """Its averaged weights, if it has them."""
    raw = {key: torch.zeros_like(tensor) for key, tensor in a2.state().items()}
    content = {"net_model": raw, "ema_model": a2.state(), "optim": {}, "step": 3}
    torch.save(content, tmp_path / "w.pt")
    model = load_authors_checkpoint(tmp_path / "w.pt", system="sdm")
    assert not model.training
    torch.testing.assert_close(estimate(model, a2), a2["out/eps"], atol=2e-5, rtol=0)


def test_the_whole_state_is_loaded(a2):
    model = load_authors_checkpoint(a2.state(), "sdm")
    assert sum(p.numel() for p in model.parameters()) == a2.facts["parameter_count"]
    theirs = sum(v.numel() for k, v in a2.state().items() if k.endswith(".tsmp"))
    assert sum(p.numel() for p in scaling_factors(model).values()) == theirs


def test_the_weights_tell_the_number_of_spiking_steps(a2):
    state = {k: v[:2] if k.endswith(".tsmp") else v for k, v in a2.state().items()}
    model = load_authors_checkpoint(state, "sdm", spiking_steps=4)
    assert model.config.spiking_steps == 2
    assert estimate(model, a2).isfinite().all()


def test_with_all_factors_1_it_is_the_sddpm_network_bit_for_bit(a2):
    state = a2.state()
    plain = {k.replace(".tsmconv.", "."): v for k, v in state.items() if not k.endswith(".tsmp")}
    ones = {k: torch.ones_like(v) if k.endswith(".tsmp") else v for k, v in state.items()}
    sdm, sddpm = (
        load_authors_checkpoint(ones, "sdm"),
        load_authors_checkpoint(plain, "sddpm", spiking_steps=4),
    )
    assert torch.equal(estimate(sdm, a2), estimate(sddpm, a2))


def test_faults_are_listed_all_of_them(a2):
    state = a2.state()
    del state["middleblocks.0.conv1.tsmp"], state["downblocks.1.conv.tsmconv.bias"]
    state["T_output_layer.tsmp"] = torch.ones(4, 1, 1, 1, 1)
    with pytest.raises(UserError, match="SDM checkpoint: 3 keys") as caught:
        load_authors_checkpoint(state, "sdm")
    for key in (
        "missing middleblocks.0.conv1.tsmp",
        "missing downblocks.1.conv.tsmconv.bias",
        "unknown T_output_layer.tsmp",
    ):
        assert key in str(caught.value)


@pytest.mark.parametrize(
    ("name", "key", "system"),
    [
        ("A1_sddpm_unet", "conv.weight", "sddpm"),
        ("A1_sddpm_unet", "tail_conv.weight", "sddpm"),
        ("A1_sddpm_unet", "downblocks.0.conv1.weight", "sddpm"),
        ("A2_sdm_tsm_unet", "conv.tsmp", "sdm"),
        ("C4_vqsvae", "encoder.snn_convs.0.weight", "spiking-diffusion"),
        ("C4_vqsvae", "vq_layer.embeddings.weight", "spiking-diffusion"),
        ("C5_sdid", "conv1.0.weight", "spiking-diffusion-decoder"),
    ],
)
def test_a_number_in_the_place_of_a_tensor_is_told(name, key, system):
    state = Golden(name).state() | {key: torch.tensor(1.0)}
    with pytest.raises(UserError, match=f"state dict: does not fit '{system}'"):
        load_authors_checkpoint(state, system)


def test_networks_without_factors_are_told():
    state = Golden("A1_sddpm_unet").state()
    with pytest.raises(UserError, match=r"no TSM factors.*use system 'sddpm'"):
        load_authors_checkpoint(state, "sdm")
    with pytest.raises(UserError, match=r"not an SDM state dict: key 'conv\.weight' is missing"):
        load_authors_checkpoint({"conv.tsmp": torch.ones(4, 1, 1, 1, 1)}, "sdm")
