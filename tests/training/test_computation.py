"""What a recipe may say of how a step is computed: the results stay."""

import copy

import pytest
import torch

from spikediff.events import SpikeConv2d
from spikediff.native import keep_large_tensors, native
from spikediff.systems.fsddim.network import SynapticCurrentUNet
from spikediff.systems.fsvae.vae import VAE
from spikediff.systems.sddpm.network import SpikingUNet
from spikediff.training.computation import prepare_computation
from spikediff.training.recipe import TrainingRecipe

CPU = torch.device("cpu")


def _networks():
    torch.manual_seed(0)
    small = {"sample_size": 8, "in_channels": 1, "base_channels": 8, "channel_mult": (1, 2)}
    yield SpikingUNet(**small, dropout=0.2)
    yield SpikingUNet(**small, block="plain")
    yield SynapticCurrentUNet(**small, spiking_steps=4)


def _step(model):
    torch.manual_seed(1)
    x, target = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8)
    torch.manual_seed(2)  # of dropout
    loss = (model(x, 10).sample - target).square().mean()
    loss.backward()
    return loss


@pytest.mark.parametrize("model", _networks(), ids=lambda m: type(m).__name__)
def test_checkpointing_changes_no_gradient_and_no_statistic(model):
    model.train()
    again = copy.deepcopy(model)
    prepare_computation(again, TrainingRecipe(gradient_checkpointing=True), CPU)
    assert _step(model) == _step(again)
    state, other = model.state_dict(), again.state_dict()
    assert state.keys() == other.keys()
    assert all(torch.equal(state[key], other[key]) for key in state)
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        assert a.grad is None or torch.equal(a.grad, b.grad)


def test_checkpointing_keeps_less():
    model = SpikingUNet(sample_size=16, in_channels=1, base_channels=8, channel_mult=(1, 2)).train()

    def kept():
        sizes = []
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda x: (sizes.append(x.nbytes), x)[1], lambda x: x
        )
        with hooks:
            model(torch.randn(2, 1, 16, 16), 10)
        return sum(sizes)

    plain = kept()
    prepare_computation(model, TrainingRecipe(gradient_checkpointing=True), CPU)
    assert kept() < 0.6 * plain


@pytest.mark.skipif(native() is None, reason="the C kernels are not built")
def test_event_driven_training_swaps_convolutions_and_keeps_names_and_values():
    model = SpikingUNet(sample_size=8, in_channels=1, base_channels=32, channel_mult=(1, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prepare_computation(model, TrainingRecipe(event_driven=True), CPU)
    assert any(isinstance(m, SpikeConv2d) for m in model.modules())
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_half_precision_and_gpus_keep_their_dense_convolutions():
    for recipe, device in (
        (TrainingRecipe(event_driven=True, mixed_precision="bf16"), CPU),
        (TrainingRecipe(event_driven=True), torch.device("cuda")),
    ):
        model = SpikingUNet(sample_size=8, in_channels=1, base_channels=8, channel_mult=(1, 2))
        prepare_computation(model, recipe, device)
        assert not any(isinstance(m, SpikeConv2d) for m in model.modules())


def test_an_ordinary_network_has_no_events():
    model = VAE(sample_size=8, in_channels=1, channels=(4, 8), latent_channels=4)
    prepare_computation(model, TrainingRecipe(event_driven=True), CPU)
    assert not any(isinstance(m, SpikeConv2d) for m in model.modules())


def test_keeping_large_tensors_says_whether_it_did():
    assert keep_large_tensors() in (True, False)
