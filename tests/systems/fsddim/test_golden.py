"""Parity with the authors' FSDDIM network, layer by layer (golden file C1)."""

import re

import pytest
import torch

from goldens import Golden
from spikediff.neurons import LIF, NeuronLayer
from spikediff.systems.fsddim.network import PUBLISHED_NEURON
from spikediff.systems.released import load_authors_checkpoint

ALPHA = {"genuine": 2**-0.5, "released": 1.0}


@pytest.fixture(scope="module")
def c1():
    return Golden("C1_fsddim_unet")


def time_first(x):
    """Theirs has the spiking steps last."""
    return x.movedim(-1, 0)


def load(golden, mode, dtype=torch.float32):
    model = load_authors_checkpoint(
        golden.state(), "fsddim", spiking_steps=4, sample_size=16, residual_alpha=ALPHA[mode]
    )
    return model.to(dtype)


def authors_layer(name):
    """Their path of one of our layers of neurons."""
    name = name.replace("time_embedding.neuron", "temb.0.spike")
    name = name.replace("middle_blocks.0", "mid_block1").replace("middle_blocks.1", "mid_block2")
    name = name.replace("last_block", "final_res_block")
    name = re.sub(r"(down|up)_levels\.(\d)\.blocks\.(\d)", r"\1s.\2.\3", name)
    name = re.sub(r"(down|up)_levels\.(\d)\.resampling\.neuron", r"\1s.\2.1.spike", name)
    name = name.replace("timestep_neuron", "temb_lif")
    return re.sub(r"\.neuron(\d)", r".lif\1", name)


@pytest.mark.parametrize("mode", ALPHA)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_output(c1, mode, dtype):
    model = load(c1, mode, dtype)
    with torch.no_grad():
        got = model(time_first(c1["in/x"]).to(dtype), c1["in/t"]).sample
    suffix, atol = ("", 1e-5) if dtype == torch.float32 else ("_f64", 1e-10)
    want = time_first(c1[f"out/{mode}/v{suffix}"])
    torch.testing.assert_close(got, want, atol=atol, rtol=0)
    if dtype == torch.float32:
        torch.testing.assert_close(got.mean(0), c1[f"out/{mode}/v_decoded"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ALPHA)
def test_every_spike(c1, mode):
    model, spikes = load(c1, mode), {}
    for name, module in model.named_modules():
        if isinstance(module, NeuronLayer):
            keep = lambda _m, _i, out, name=name: spikes.update({authors_layer(name): out})  # noqa: E731
            module.register_forward_hook(keep)
    with torch.no_grad():
        model(time_first(c1["in/x"]), c1["in/t"])
    prefix = f"spikes/{mode}/"
    want = {k.removeprefix(prefix): v for k, v in c1.tensors.items() if k.startswith(prefix)}
    assert spikes.keys() == want.keys()
    for layer, expected in want.items():
        assert torch.equal(spikes[layer].byte(), time_first(expected)), layer


@pytest.mark.parametrize(
    ("theirs", "ours"),
    {
        "conv_in": "stem",
        "down0_out": "down_levels.0.resampling",
        "up0_out": "up_levels.0.resampling",
        "temb": "time_embedding",
    }.items(),
)
def test_currents_between(c1, theirs, ours):
    model, seen = load(c1, "genuine"), []
    model.get_submodule(ours).register_forward_hook(lambda _m, _i, out: seen.append(out))
    with torch.no_grad():
        model(time_first(c1["in/x"]), c1["in/t"])
    want = time_first(c1[f"mid/genuine/{theirs}"])
    torch.testing.assert_close(seen[0].expand(want.shape), want, atol=1e-5, rtol=0)


def test_neuron_traces(c1):
    """The published neuron: silent at exactly the threshold, no gradient through the reset."""
    neuron, x = LIF(**PUBLISHED_NEURON), time_first(c1["lif/x"]).clone().requires_grad_()
    spikes = neuron(x)
    spikes.backward(time_first(c1["lif/grad_out"]))
    assert torch.equal(spikes.byte(), time_first(c1["lif/spikes"]))
    assert x[0, 0, 0] == 1.0
    assert spikes[0, 0, 0] == 0.0
    torch.testing.assert_close(x.grad, time_first(c1["lif/grad_x"]), atol=2e-6, rtol=0)
