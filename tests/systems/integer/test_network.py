"""The integer U-Net: what its synapses see, what it adds up, and what a mistake is told."""

import pytest
import torch
from torch.nn import functional as F

from spikediff.errors import UserError
from spikediff.neurons import IntegerNeuron
from spikediff.systems.integer import IntegerSpikingUNet, to_integer
from spikediff.systems.integer.network import CountConv2d, SiLU

SMALL = {"sample_size": 8, "in_channels": 1, "block_out_channels": (6, 10), "num_classes": 3}


def network(**options):
    torch.manual_seed(0)
    return IntegerSpikingUNet(**(SMALL | options))


@pytest.mark.parametrize("widths", [(5,), (6, 10), (4, 6, 8)])
@pytest.mark.parametrize("patch_size", [1, 2])
def test_every_synapse_sees_whole_counts(widths, patch_size):
    unet = network(block_out_channels=widths, patch_size=patch_size)
    seen = {}
    for name, part in unet.named_modules():
        if isinstance(part, CountConv2d):
            part.register_forward_pre_hook(
                lambda _part, given, name=name: seen.update({name: given[0]})
            )
    unet(torch.randn(2, 1, 8, 8), 10)
    convolutions = {n for n, m in unet.named_modules() if isinstance(m, torch.nn.Conv2d)}
    assert convolutions - seen.keys() == {"stem"}
    for name, counts in seen.items():
        levels = 15 if name == "head" else 4
        assert torch.equal(counts, counts.round().clamp(0, levels)), name


def test_the_rate_is_spikes_per_synapse():
    """Ones against ones: a synapse that a spike reaches adds one to a sum."""
    unet = network().train()
    counted = []
    for part in unet.modules():
        if isinstance(part, CountConv2d):
            part.register_forward_pre_hook(
                lambda part, given: counted.append((given[0].detach(), part))
            )
    rate = unet(torch.randn(2, 1, 8, 8), 10).rate
    synapses = sum(F.conv2d(c, p.weight, None, p.stride, p.padding)[0, 0].numel() * p.weight.numel()
                   for c, p in counted)  # fmt: skip
    spikes = sum(
        c.mean() * F.conv2d(c, p.weight, None, p.stride, p.padding)[0, 0].numel() * p.weight.numel()
        for c, p in counted
    )
    torch.testing.assert_close(rate, spikes / synapses)
    assert rate.requires_grad
    assert network().eval()(torch.randn(2, 1, 8, 8), 10).rate is None


def test_counts_are_kept_only_for_a_training_step_and_once():
    """What the backward pass computes again is not recorded again."""
    unet, calls = network(), []
    for part in unet.modules():
        if isinstance(part, CountConv2d):
            part.register_forward_pre_hook(lambda _part, given: calls.append(given[-1].traffic))
    unet.enable_gradient_checkpointing()
    unet.eval()(torch.randn(2, 1, 8, 8), 10)
    assert not any(calls)
    calls.clear()
    unet.train()(torch.randn(2, 1, 8, 8), 10).rate.backward()
    synapses = [m for m in unet.modules() if isinstance(m, CountConv2d)]
    assert len(calls[0]) == len(synapses) < len(calls)


def test_an_empty_batch_has_an_empty_estimate():
    assert network().eval()(torch.zeros(0, 1, 8, 8), 10).sample.shape == (0, 1, 8, 8)


@pytest.mark.parametrize("timestep", [1000, -1])
def test_timesteps_without_a_row_are_refused(timestep):
    with pytest.raises(UserError, match=f"timestep {timestep}: must be an integer from 0 to 999"):
        network().eval()(torch.zeros(1, 1, 8, 8), timestep)


@pytest.mark.slow
def test_a_training_step_is_one_program():
    unet = network(block_out_channels=(6,)).train()
    inputs = (torch.randn(2, 1, 8, 8), torch.tensor([3, 700]), torch.tensor([0, 3]))
    want = unet(*inputs)
    got = torch.compile(unet, fullgraph=True, backend="eager")(*inputs)
    torch.testing.assert_close((got.sample, got.rate), (want.sample, want.rate))


def test_the_change_is_zero_between_equal_halves_and_positive_else():
    unet = network().train()
    x = torch.randn(2, 1, 8, 8)
    same = unet.eval()(torch.cat([x, x]), 10, paired=True).change
    other = unet(torch.cat([x, -x]), 10, paired=True).change
    assert same == 0 < other


def test_the_counterpart_has_the_same_skeleton():
    unet = network()
    ordinary = unet.ann_counterpart()
    neurons = {n for n, m in unet.named_modules() if isinstance(m, IntegerNeuron)}
    assert neurons == {n for n, m in ordinary.named_modules() if isinstance(m, SiLU)}
    sizes = {n: p.shape for n, p in unet.named_parameters() if not n.startswith(tuple(neurons))}
    assert sizes == {n: p.shape for n, p in ordinary.named_parameters()}
    positional = IntegerSpikingUNet(8, 3, 2, (4, 8))
    for model in (positional, to_integer(positional.eval())):
        config = model.ann_counterpart().config
        assert (config.sample_size, config.in_channels, config.patch_size) == (8, 3, 2)


def test_the_class_and_the_timestep_are_separate_biases():
    """So that the deployment form needs a row of each table, and no table of all pairs."""
    unet = network().eval()
    t, labels = torch.tensor([3, 700]), torch.tensor([0, 2])
    both = [[unet.embed(a, b, 1, unet.device) for b in labels] for a in t]
    torch.testing.assert_close(both[0][0] - both[0][1], both[1][0] - both[1][1])


@pytest.mark.parametrize("bits", [8, 4])
def test_fine_tuning_for_few_bits_trains_and_keeps_the_statistics(bits):
    unet = network(weight_bits=bits).train()
    torch.nn.init.normal_(unet.head.weight, std=0.1)
    before = {n: b.clone() for n, b in unet.named_buffers()}
    unet(torch.randn(2, 1, 8, 8), 10).sample.square().mean().backward()
    assert all(torch.equal(b, before[n]) for n, b in unet.named_buffers())
    missing = [n for n, p in unet.named_parameters() if p.requires_grad and p.grad is None]
    assert all(name.startswith("class_embedding") for name in missing)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"levels": 0}, "levels=0 must be at least 1"),
        ({"head_levels": -1}, "head_levels=-1 must be at least 1"),
        ({"activation": "relu"}, "unknown activation 'relu'"),
        ({"block_out_channels": ()}, "must not be empty"),
        ({"block_out_channels": (0, 8)}, "must be at least 1"),
        ({"block_out_channels": 16}, "must be a list"),
        ({"block_out_channels": (8.5, 16)}, "block_out_channels=8.5 must be a whole"),
        ({"block_out_channels": ("a", 16)}, "block_out_channels='a' must be a whole"),
        ({"layers_per_block": 1.5}, "layers_per_block=1.5 must be a whole"),
        ({"levels": 1.5}, "levels=1.5 must be a whole"),
        ({"sample_size": 0}, "sample_size=0 must be at least 1"),
        ({"in_channels": 0}, "in_channels=0 must be at least 1"),
        ({"block_out_channels": (4, 4, 4, 4, 4)}, "divisible by 16"),
        ({"patch_size": 3}, "patch_size=3"),
        ({"num_classes": -1}, "num_classes=-1"),
        ({"weight_bits": 7}, "choose from 8, 6 and 4"),
    ],
)
def test_mistakes_are_told(options, told):
    with pytest.raises(UserError, match=told):
        network(**options)
