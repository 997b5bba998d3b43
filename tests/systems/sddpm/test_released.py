"""The authors' SDDPM checkpoints: files of every kind, and what is said of misfits."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from goldens import GOLDEN, Golden
from spikediff.errors import UserError
from spikediff.systems.released import load_authors_checkpoint


@pytest.fixture(scope="module")
def a1():
    return Golden("A1_sddpm_unet")


def estimate(model, a1):
    with torch.no_grad():
        return model(a1["in/x"], a1["in/t"]).sample


@pytest.mark.parametrize("kind", ["pt", "training checkpoint", "data parallel", "safetensors"])
def test_files(kind, a1, tmp_path):
    state = a1.state()
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "pt":
        torch.save(state, path)
    elif kind == "training checkpoint":
        torch.save({"net_model": state, "optim": {}, "step": 3, "x_T": torch.zeros(1)}, path)
    else:
        torch.save({"net_model": {f"module.{k}": v for k, v in state.items()}}, path)
    model = load_authors_checkpoint(path, system="sddpm", spiking_steps=4)
    assert not model.training
    torch.testing.assert_close(estimate(model, a1), a1["out/eps"], atol=2e-5, rtol=0)


def test_sizes_are_read_off_the_weights(a1):
    config = load_authors_checkpoint(a1.state(), "sddpm", 4).config
    facts = a1.facts["config"]
    assert config.base_channels == facts["ch"]
    assert list(config.channel_mult) == facts["ch_mult"]
    assert config.layers_per_block == facts["num_res_blocks"]
    assert config.in_channels == facts["img_ch"]


def test_golden_state_is_the_whole_state(a1):
    model = load_authors_checkpoint(a1.state(), "sddpm", 4)
    assert sum(p.numel() for p in model.parameters()) == a1.facts["parameter_count"]


def test_faults_are_listed_all_of_them(a1):
    state = a1.state()
    del state["middleblocks.0.conv1.weight"], state["bn.running_mean"]
    state["attention.weight"] = torch.zeros(1)
    with pytest.raises(UserError) as caught:
        load_authors_checkpoint(state, "sddpm", 4)
    said = str(caught.value)
    assert "3 keys" in said
    for key in ("middleblocks.0.conv1.weight", "bn.running_mean", "attention.weight"):
        assert key in said
    assert "\n" not in said


def test_wrong_shape_is_told(a1):
    state = a1.state()
    state["tail_bn.weight"] = torch.zeros(3)
    with pytest.raises(UserError, match=r"tail_bn.weight has shape \(3,\), not \(16,\)"):
        load_authors_checkpoint(state, "sddpm", 4)


def test_a_network_without_blocks_is_told(a1):
    state = {k: v for k, v in a1.state().items() if not k.startswith("downblocks.")}
    with pytest.raises(UserError, match=r"residual blocks per level are \[\[\]\]"):
        load_authors_checkpoint(state, "sddpm")


def test_other_networks_are_told(tmp_path):
    with pytest.raises(UserError, match="not an SDDPM state dict"):
        load_authors_checkpoint({"fc.weight": torch.zeros(2, 2)}, "sddpm")
    with pytest.raises(UserError, match="unknown system"):
        load_authors_checkpoint({}, "sddpmm")
    with pytest.raises(UserError, match="no such file"):
        load_authors_checkpoint(tmp_path / "absent.pt", "sddpm")


class Payload:
    """What a malicious checkpoint would run when it is unpickled."""

    ran = False

    def __reduce__(self):
        return (setattr, (Payload, "ran", True))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    path = tmp_path / "w.pt"
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(UserError, match="cannot be read as weights"):
        load_authors_checkpoint(path, "sddpm")
    torch.save({"net_model": Payload()}, path)
    with pytest.raises(UserError, match="cannot be read as weights"):
        load_authors_checkpoint(path, "sddpm")
    assert Payload.ran is False


def test_a_pickle_in_the_place_of_safetensors(a1, tmp_path):
    path = tmp_path / "w.safetensors"
    torch.save(a1.state(), path)
    with pytest.raises(UserError, match="cannot be read as weights"):
        load_authors_checkpoint(path, "sddpm")


def test_truncated_file(tmp_path):
    data = (GOLDEN / "A1_sddpm_unet.safetensors").read_bytes()
    path = tmp_path / "w.safetensors"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="cannot be read as weights"):
        load_authors_checkpoint(path, "sddpm")
