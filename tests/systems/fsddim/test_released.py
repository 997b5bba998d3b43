"""The authors' FSDDIM checkpoints: sizes, containers, and what is said of misfits."""

import json

import pytest
import torch

from goldens import GOLDEN, Golden
from spikediff.errors import UserError
from spikediff.systems.released import load_authors_checkpoint


@pytest.fixture(scope="module")
def state():
    return Golden("C1_fsddim_unet").state()


def full_size(name):
    """The authors' keys at the published size, in zeros; two data sets differ from MNIST's."""
    every = json.loads((GOLDEN / "C1_default_keys.json").read_text())
    mnist, other = (next(v for k, v in every.items() if part in k) for part in ("MNIST", name))
    keys = mnist["state_dict"] | other["state_dict"]
    zeros = {k: torch.zeros(shape, dtype=getattr(torch, t)) for k, (t, shape) in keys.items()}
    return zeros, other["parameters"]


@pytest.mark.parametrize(
    "name",
    ["MNIST", *(pytest.param(name, marks=pytest.mark.slow) for name in ("CIFAR10", "CelebA"))],
)
def test_the_published_networks(name):
    zeros, parameters = full_size(name)
    model = load_authors_checkpoint(zeros, "fsddim", spiking_steps=8)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model.config.spiking_steps == 8
    assert model.config.channel_mult == [1, 2, 3, 4]
    assert model.config.residual_alpha == 1.0
    assert not model.training


def test_a_training_checkpoint_in_a_file(state, tmp_path):
    container = {"epoch": 3, "encoder_state_dict": {}, "decoder_state_dict": {}}
    torch.save(container | {"model_state_dict": state}, tmp_path / "best.pth")
    model = load_authors_checkpoint(tmp_path / "best.pth", "fsddim", sample_size=16)
    assert torch.equal(model.stem.conv.weight, state["conv_in.weight"].squeeze(-1))


def test_the_gain_of_the_residual_norms_is_an_option(state):
    genuine = load_authors_checkpoint(state, "fsddim", 4, 16, residual_alpha=2**-0.5)
    block = genuine.middle_blocks[0]
    assert block.synapse2.norm.alpha == block.shortcut.norm.alpha == 2**-0.5
    assert block.synapse1.norm.alpha == 1.0
    with pytest.raises(UserError, match="residual_alpha"):
        load_authors_checkpoint(state, "sddpm", residual_alpha=1.0)


def test_misfits_are_listed(state):
    with pytest.raises(UserError, match=r"missing mid_block1\.conv2\.weight"):
        load_authors_checkpoint(
            {k: v for k, v in state.items() if k != "mid_block1.conv2.weight"}, "fsddim", 4, 16
        )
    with pytest.raises(UserError, match="unknown extra"):
        load_authors_checkpoint(state | {"extra": torch.zeros(1)}, "fsddim", 4, 16)
    with pytest.raises(UserError, match="not an FSDDIM state dict"):
        load_authors_checkpoint({"conv.weight": torch.zeros(1)}, "fsddim")
    without = {k: v for k, v in state.items() if not k.startswith("ups.")}
    with pytest.raises(UserError, match=r"residual blocks per level are \[\]"):
        load_authors_checkpoint(without, "fsddim")
