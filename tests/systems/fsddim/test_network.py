"""The FSDDIM network: its two faces, its stream, its options."""

import pytest
import torch
from torch import nn

from spikediff.errors import UserError
from spikediff.layers import ThresholdNorm
from spikediff.neurons import NeuronLayer
from spikediff.systems.fsddim.network import SynapticCurrentUNet


def make(spiking_steps=4, **options):
    torch.manual_seed(0)
    sizes = {"base_channels": 8, "channel_mult": (1, 2), "layers_per_block": 1}
    model = SynapticCurrentUNet(8, 1, spiking_steps=spiking_steps, **{**sizes, **options})
    _liven(model)
    return model.eval()


def _liven(model):
    """Give every norm statistics of its own, so that no layer stays silent."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, ThresholdNorm):
                module.running_var.uniform_(0.02, 0.1)
                module.bias.uniform_(-0.2, 0.6)


OPTIONS = [
    {},
    {"spiking_stem": True},
    {"spiking_resampling": True},
    {"channel_mult": (1, 2, 3), "layers_per_block": 2, "residual_alpha": 2**-0.5},
]


@pytest.mark.parametrize(("channels", "parameters"), [(1, 52_536_705), (3, 52_540_547)])
def test_published_size(channels, parameters):
    with torch.device("meta"):
        model = SynapticCurrentUNet(32, channels)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(isinstance(m, NeuronLayer) for m in model.modules()) == 60
    assert sum(isinstance(m, ThresholdNorm) for m in model.modules()) == 59


@pytest.mark.parametrize("options", OPTIONS)
def test_an_image_is_a_constant_current_whose_answer_is_averaged(options):
    model, x = make(**options), torch.randn(3, 1, 8, 8)
    t = torch.tensor([3, 500, 999])
    with torch.no_grad():
        window = model(x.expand(4, -1, -1, -1, -1), t).sample
        image = model(x, t).sample
    assert window.shape == (4, 3, 1, 8, 8)
    torch.testing.assert_close(image, window.mean(0))
    assert window.var(0).max() > 0, "the spiking steps answer differently"


@pytest.mark.parametrize("options", OPTIONS)
def test_stream_equals_window(options):
    """Every spike and every output of T single steps is that of the window."""
    model, currents = make(**options).double(), torch.randn(4, 2, 1, 8, 8).double()
    spikes = record_spikes(model)
    with torch.no_grad():
        window = model(currents, 17).sample
        of_window = {name: torch.cat(parts) for name, parts in spikes.items()}
        spikes.clear()
        state, outputs = None, []
        for current in currents:
            output, state = model.step(current, 17, state)
            outputs.append(output)
    for name, parts in spikes.items():
        assert torch.equal(torch.cat(parts), of_window[name]), name
    assert sum(part.sum() for part in of_window.values()) > 0
    torch.testing.assert_close(torch.stack(outputs), window, atol=1e-12, rtol=0)


def record_spikes(model):
    spikes = {}
    for name, module in model.named_modules():
        if isinstance(module, NeuronLayer):
            keep = lambda _m, _i, out, name=name: spikes.setdefault(name, []).append(out)  # noqa: E731
            module.register_forward_hook(keep)
    return spikes


def test_the_state_is_a_value():
    model, current = make(), torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        _, state = model.step(current, 5)
        kept = {name: s.v.clone() for name, s in state.items()}
        first, _ = model.step(current, 5, state)
        again, _ = model.step(current, 5, state)
    assert torch.equal(first, again), "a step leaves the state that it was given as it is"
    assert all(torch.equal(state[name].v, v) for name, v in kept.items())


def test_calls_are_independent():
    model, x = make(), torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        first = model(x, 5).sample
        model(torch.randn(7, 1, 8, 8), 900)
        assert torch.equal(model(x, 5).sample, first)


@pytest.mark.parametrize("options", OPTIONS[1:3])
def test_spiking_options_leave_spikes_only(options):
    """With both, every convolution but the first sees multiples of a quarter of a spike."""
    model = make(spiking_stem=True, spiking_resampling=True)
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _m, i, _o, n=name: seen.update({n: i[0]}))
    with torch.no_grad():
        model(torch.randn(1, 1, 8, 8), 5)
    real = [n for n, x in seen.items() if not torch.equal((4 * x).round(), 4 * x)]
    assert real == ["stem.conv"]
    assert make(**options).num_parameters() != make().num_parameters()


def test_alpha_survives_the_wrapping_for_several_processes():
    """The authors' trainer loses it: SyncBatchNorm's conversion replaces batch norms in place."""
    model = make(residual_alpha=0.5)
    before = [m.alpha for m in model.modules() if isinstance(m, ThresholdNorm)]
    wrapped = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    after = [m.alpha for m in wrapped.modules() if isinstance(m, ThresholdNorm)]
    assert before == after
    assert 0.5 in after
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in wrapped.modules())


def test_save_and_load(tmp_path):
    model, x = make(residual_alpha=0.7), torch.randn(2, 1, 8, 8)
    model.save_pretrained(tmp_path)
    again = SynapticCurrentUNet.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(again.eval()(x, 3).sample, model(x, 3).sample)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: make(spiking_steps=0), "spiking_steps=0"),
        (lambda: make(residual_alpha=0.0), "residual_alpha"),
        (lambda: make(neuron="lift"), "did you mean 'lif'"),
        (lambda: make(neuron_options={"tua": 2.0}), "do not fit"),
        (lambda: make()(torch.zeros(1, 3, 8, 8), 0), "in_channels=1"),
        (lambda: make()(torch.zeros(4, 1, 3, 8, 8), 0), "in_channels=1"),
        (lambda: make()(torch.zeros(1, 1, 9, 9), 0), "not divisible by 2"),
        (lambda: make().step(torch.zeros(4, 1, 1, 8, 8), 0), "expects images"),
        (lambda: make().train().step(torch.zeros(1, 1, 8, 8), 0), "eval"),
        (lambda: make().step(torch.zeros(1, 1, 8, 8), 0, {"other": None}), "another network"),
    ],
)
def test_wrong_use_is_told(call, word):
    with pytest.raises(UserError, match=word):
        call()
