"""The spiking U-Net in one dimension: the same network, of signals."""

import pytest
import torch
from torch import nn

from norms import see
from sizes import U_NET
from spikediff.diffusion.model import ann_counterpart
from spikediff.energy import EnergyMeter
from spikediff.errors import UserError
from spikediff.events import compile_for_inference
from spikediff.layers.coding import DECODERS
from spikediff.layers.normed_neuron import fire_normed
from spikediff.neurons import LIF
from spikediff.systems.sddpm.blocks import BLOCKS
from spikediff.systems.sddpm.network import SpikingUNet

SMALL = U_NET | {"sample_size": 16, "in_channels": 2}


def make(seed=0, **options):
    torch.manual_seed(seed)
    model = SpikingUNet(**{**SMALL, "dimensions": 1, **options})
    nn.init.normal_(model.head.conv.weight, std=0.1)
    return model


def warmed(model, *shape):
    """A model in evaluation, with the running statistics of noise."""
    return see(model, torch.randn(8, *shape), torch.randint(1000, (8,)))


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("scaling", [False, True])
@pytest.mark.parametrize("readout", DECODERS)
def test_every_parameter_learns(block, scaling, readout):
    model = make(block=block, temporal_scaling=scaling, readout=readout, dropout=0.1)
    out = model(torch.randn(3, 2, 16), torch.tensor([1, 500, 999])).sample
    assert out.shape == (3, 2, 16)
    out.square().sum().backward()
    silent = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert silent == []
    if scaling:  # batch norm hides a factor that is common to all steps, not their ratios
        assert all(p.grad.abs().sum() > 0 for n, p in model.named_parameters() if n.endswith(".p"))


def as_rows(model, twin):
    """Give an image network the signal network's kernels, in the middle row of its own."""
    state = twin.state_dict()
    for name, tensor in model.state_dict().items():
        if tensor.dim() == 3 and not name.endswith(".p"):
            kernel = torch.zeros_like(state[name])
            kernel[:, :, kernel.shape[2] // 2] = tensor
            state[name] = kernel
        else:
            state[name] = tensor
    twin.load_state_dict(state)
    return twin


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("training", [False, True])
def test_a_signal_is_a_row_of_an_image_whose_kernels_are_one_row(block, training):
    options = {"block": block, "temporal_scaling": True, "neuron": "lif"}
    signals = warmed(make(**options), 2, 16).double()
    images = as_rows(signals, make(1, dimensions=2, **options).double())
    signals.train(training)
    images.train(training)
    x, t = torch.randn(3, 2, 16).double(), torch.tensor([3, 400, 999])
    rows = x[:, :, None].expand(-1, -1, 4, -1)  # [B, C, 4, L], every row the signal
    with torch.no_grad():
        expected = signals(x, t).sample
        answer = images(rows, t).sample
    assert expected.std() > 0.01
    for row in answer.unbind(2):
        torch.testing.assert_close(row, expected, rtol=1e-9, atol=1e-9)


def test_initialisation_is_that_of_images():
    model = make()
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Conv1d) or name.startswith(("stem.synapse", "head")):
            continue
        taps = layer.kernel_size[0]
        bound = (6 / (taps * (layer.in_channels + layer.out_channels))) ** 0.5
        assert 0.5 * bound < layer.weight.abs().max() <= bound
        assert not layer.bias.any()
    torch.manual_seed(0)
    assert SpikingUNet(**SMALL, dimensions=1).head.conv.weight.abs().max() < 1e-4


def test_temporal_scaling_of_one_changes_no_bit():
    plain = warmed(make(), 2, 16)
    scaled = make(1, temporal_scaling=True).eval()
    scaled.load_state_dict({**scaled.state_dict(), **plain.state_dict()})
    x = torch.randn(3, 2, 16)
    assert torch.equal(scaled(x, 7).sample, plain(x, 7).sample)


def test_norm_and_neuron_as_one_node_are_the_two_layers():
    neuron, x = LIF(), 2 * torch.randn(4, 3, 5, 8)
    results = []
    for observed in (False, True):  # a hook keeps the layers apart
        norm, current = nn.BatchNorm1d(5), x.clone().requires_grad_()
        if observed:
            norm.register_forward_hook(lambda *_: None)
        spikes = fire_normed(neuron, norm, current, bias=torch.ones(3, 5, 1))
        spikes.square().sum().backward()
        kinds = {type(spikes.grad_fn).__name__}
        results.append((spikes, current.grad, norm.running_var, norm.weight.grad, kinds))
    one, two = results
    assert one[-1] == {"_NormedNeuronBackward"} != two[-1]
    assert all(torch.equal(a, b) for a, b in zip(one[:-1], two[:-1], strict=True))


def pairs(layer, length):
    """Pairs of an input and an output sample that a convolution joins, counted one by one."""
    stride, padding, taps = layer.stride[0], layer.padding[0], layer.kernel_size[0]
    outputs = (length + 2 * padding - taps) // stride + 1
    return sum(
        0 <= out * stride - padding + tap < length for out in range(outputs) for tap in range(taps)
    )


def firing(model):
    """Let every norm answer 1, and nothing that is added to it be negative: all neurons fire."""
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.zeros_(module.weight)
            nn.init.ones_(module.bias)
        elif "shortcut.conv" in name and isinstance(module, nn.Conv1d):
            nn.init.ones_(module.weight)
        elif name.endswith("timestep_bias.linear"):
            nn.init.zeros_(module.weight)
    return model.eval()


def test_energy_by_hand():
    """Where all neurons fire, every pair that a synapse of spikes joins is an accumulate."""
    length, batch = 16, 3
    model = firing(make(spiking_steps=1))
    with EnergyMeter(model) as meter, torch.no_grad():
        model(torch.randn(batch, 2, length), 10)
    report = meter.report(padding=False)
    halved = ("down_blocks.2", "middle_blocks", "up_blocks.0", "up_blocks.1")
    acs = macs = 0
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            macs += layer.in_features * layer.out_features  # one timestep for all
        if not isinstance(layer, nn.Conv1d):
            continue
        seen = length // 2 if name.startswith(halved) else length
        work = batch * layer.in_channels * layer.out_channels * pairs(layer, seen)
        if name == "stem.encode.conv" or "shortcut" in name or name.startswith("head"):
            macs += work  # real-valued currents
        else:
            acs += work
    assert (report.macs, report.acs) == (macs, acs)


def test_compiled_for_inference_computes_the_same():
    model = warmed(make(), 2, 16)
    fast = compile_for_inference(model)
    norms = [m for m in fast.modules() if isinstance(m, nn.BatchNorm1d)]
    assert [n for n, m in fast.named_modules() if m in norms] == ["head.norm"]
    x = torch.randn(4, 2, 16)
    with torch.no_grad():
        for name in ("stem", "down_blocks.0.synapse1"):  # before a flipped spike can spread
            part, ours = model.get_submodule(name), fast.get_submodule(name)
            given = x if name == "stem" else (torch.rand(4, 4, 8, 16) < 0.3).float()
            torch.testing.assert_close(ours(given), part(given), rtol=1e-4, atol=1e-4)
        assert (fast(x, 5).sample - model(x, 5).sample).abs().mean() < 0.05


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 2, 15), r"signal length \(15,\) is not divisible by 2; pad the signals"),
        ((1, 3, 16), r"expects signals \[B, 2, L\]"),
        ((1, 2, 16, 16), "dimensions=1"),
        ((2, 16), r"expects signals \[B, 2, L\]"),
    ],
)
def test_other_shapes_are_refused(shape, words):
    with pytest.raises(UserError, match=words):
        make()(torch.zeros(shape), 0)


def test_other_dimensions_are_refused():
    with pytest.raises(UserError, match=r"expects images \[B, 2, H, W\]"):
        make(dimensions=2)(torch.zeros(1, 2, 16), 0)
    with pytest.raises(UserError, match="dimensions=3; 2 for images, 1 for signals"):
        make(dimensions=3)
    with pytest.raises(UserError, match="patch_size=2; signals have no patches, omit it"):
        make(patch_size=2)
    with pytest.raises(UserError, match="sample_size=15 must be divisible by 2"):
        make(sample_size=15)
    with pytest.raises(UserError, match="no ordinary counterpart"):
        ann_counterpart(make())
