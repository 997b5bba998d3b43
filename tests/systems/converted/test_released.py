"""Golden A4: the authors' quantised network and its conversion, in the authors' arithmetic."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from goldens import Golden
from spikediff.errors import UserError
from spikediff.systems.converted.layers import ConvertedIF
from spikediff.systems.converted.released import sdm_converted_key
from spikediff.systems.released import load_authors_checkpoint

RESIDUAL = ("conv1", "conv2", "time_emb_proj")  # what the authors' helper for unsigned spikes finds


@pytest.fixture(scope="module")
def a4():
    return Golden("A4_ann2snn")


def load(a4, system, spikes="signed"):
    model = load_authors_checkpoint(a4.state(), system, spiking_steps=3, sample_size=8)
    for name, neuron in neurons(model).items():
        in_residual_block = name.split(".")[-2] in RESIDUAL
        if spikes == "off" or (spikes == "helper" and in_residual_block):
            neuron.dynamics = ConvertedIF(signed=False).dynamics
    return model


def neurons(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, ConvertedIF)}


def estimate(model, a4, dtype=torch.float32):
    with torch.no_grad():
        return nn.Module.to(model, dtype)(a4["in/x"].to(dtype), a4["in/t"]).sample


def test_the_quantised_network(a4):
    model = load(a4, "sdm-quantised")
    torch.testing.assert_close(estimate(model, a4), a4["out/ann"], atol=2e-5, rtol=0)
    exact = estimate(model, a4, torch.float64)
    torch.testing.assert_close(exact, a4["out64/ann"], atol=1e-10, rtol=0)


@pytest.mark.parametrize("spikes", ["signed", "helper", "off"])
def test_the_converted_network(a4, spikes):
    model = load(a4, "sdm-converted", spikes)
    out = estimate(model, a4)
    torch.testing.assert_close(out, a4[f"out/snn_{spikes}"], atol=2e-5, rtol=0)
    exact = estimate(model, a4, torch.float64)
    torch.testing.assert_close(exact, a4[f"out64/snn_{spikes}"], atol=1e-10, rtol=0)
    error = (out - a4["out/ann"]).norm() / a4["out/ann"].norm()
    assert error.item() == pytest.approx(a4.facts["conversion_error_rel"][spikes], rel=1e-3)


@pytest.mark.parametrize("spikes", ["signed", "helper", "off"])
def test_every_spike(a4, spikes):
    model, counts = load(a4, "sdm-converted", spikes), {}

    def count(name):
        def hook(_module, _inputs, out):
            layer = sdm_converted_key(f"{name}.clip", 1).removesuffix(".act_alpha")
            counts[layer.rpartition(".")[0]] = (int((out == 1).sum()), int((out == -1).sum()))

        return hook

    for name, neuron in neurons(model).items():
        neuron.register_forward_hook(count(name))
    estimate(model, a4)
    told = a4.facts["snn"][spikes]
    assert counts == {
        name: (told["count_positive"][name], told["count_negative"][name])
        for name in told["count_positive"]
    }


def test_the_window_of_every_block(a4):
    model, windows = load(a4, "sdm-converted").double(), {}
    named = {
        "down_blocks.0.resnets.0": "downblocks.0",
        "down_blocks.0.downsamplers.0": "downblocks.1",
        "mid_block.resnets.1": "middleblocks.1",
        "up_blocks.0.upsamplers.0": "upblocks.2",
        "up_blocks.1.resnets.1": "upblocks.4",
    }
    for ours, theirs in named.items():

        def keep(_module, _inputs, out, theirs=theirs):
            windows[theirs] = out.unflatten(0, (3, 2))[:, :1].transpose(0, 1)  # as they have it

        model.unet.get_submodule(ours).register_forward_hook(keep)
    estimate(model, a4, torch.float64)
    for name, window in windows.items():
        golden = a4[f"mid_snn_signed/{name}"].double()
        torch.testing.assert_close(window, golden, atol=2e-5, rtol=0)


def test_the_straight_through_gradients(a4):
    model = nn.Module.to(load(a4, "sdm-quantised"), torch.float64)
    out = model(a4["in/x"].double(), a4["in/t"]).sample
    nn.functional.mse_loss(out, a4["grad_in/noise"].double()).backward()
    ours = {sdm_converted_key(name, 1): p.grad for name, p in model.named_parameters()}
    for name in a4.facts["config"]["grads"]:
        golden = a4[f"grad64/{name}"]
        assert ((ours[name] - golden).norm() / golden.norm()).item() < 1e-10


def test_the_names_of_the_converted_network_are_known_too(a4):
    state = {theirs: a4.state()[ann] for ann, theirs in a4.facts["ann_to_snn_keys"].items()}
    model = load_authors_checkpoint({"net_model": state}, "sdm-converted", 3, sample_size=8)
    assert torch.equal(estimate(model, a4), estimate(load(a4, "sdm-converted"), a4))


def test_what_does_not_fit_is_told(a4):
    with pytest.raises(UserError, match="not an SDM conversion"):
        load_authors_checkpoint({"conv.weight": torch.zeros(1)}, "sdm-converted", 3)
    with pytest.raises(UserError, match="3 for 2 bits"):
        load_authors_checkpoint(a4.state(), "sdm-quantised", spiking_steps=4)
    state = a4.state()
    del state["middleblocks.0.block2.1.act_alpha"]
    with pytest.raises(UserError, match=r"missing middleblocks\.0\.block2\.1\.act_alpha"):
        load_authors_checkpoint(state, "sdm-converted", 3)


def authors_state(base, channel_mult, layers, rows=10):
    """Random weights of the authors' quantised network, by what their code builds."""
    state, index = {}, 0

    def conv(name, inputs, outputs, kernel):
        state[f"{name}.weight"] = torch.randn(outputs, inputs, kernel, kernel)
        state[f"{name}.bias"] = torch.randn(outputs)

    def norm(name, width):
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.randn(2, width)

    def linear(name, inputs, outputs):
        state[f"{name}.weight"] = torch.randn(outputs, inputs)
        state[f"{name}.bias"] = torch.randn(outputs)

    def clip(name):
        state[f"{name}.act_alpha"] = torch.rand(1) + 0.5

    def block(name, inputs, outputs):
        norm(f"{name}.block1.0", inputs)
        clip(f"{name}.block1.1")
        conv(f"{name}.block1.2", inputs, outputs, 3)
        clip(f"{name}.temb_proj.0")
        linear(f"{name}.temb_proj.1", 4 * base, outputs)
        norm(f"{name}.block2.0", outputs)
        clip(f"{name}.block2.1")
        conv(f"{name}.block2.3", outputs, outputs, 3)
        if inputs != outputs:
            conv(f"{name}.shortcut", inputs, outputs, 1)

    state["time_embedding.timembedding.0.weight"] = torch.randn(rows, base)
    linear("time_embedding.timembedding.1", base, 4 * base)
    clip("time_embedding.timembedding.2")
    linear("time_embedding.timembedding.3", 4 * base, 4 * base)
    conv("head", 3, base, 3)
    skips, width = [base], base
    for level, mult in enumerate(channel_mult):
        for _ in range(layers):
            block(f"downblocks.{index}", width, base * mult)
            width, index = base * mult, index + 1
            skips.append(width)
        if level < len(channel_mult) - 1:
            conv(f"downblocks.{index}.main", width, width, 3)
            index += 1
            skips.append(width)
    block("middleblocks.0", width, width)
    block("middleblocks.1", width, width)
    index = 0
    for level, mult in reversed(list(enumerate(channel_mult))):
        for _ in range(layers + 1):
            block(f"upblocks.{index}", width + skips.pop(), base * mult)
            width, index = base * mult, index + 1
        if level:
            conv(f"upblocks.{index}.main", width, width, 3)
            index += 1
    norm("tail.0", width)
    clip("tail.1")
    conv("tail.2", width, 3, 3)
    return state


@pytest.mark.slow
@settings(max_examples=20)
@given(
    st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=3),
    st.integers(1, 2),
    st.sampled_from(["sdm-converted", "sdm-quantised"]),
)
def test_any_channel_multipliers_load_and_save(tmp_path_factory, channel_mult, layers, system):
    state = authors_state(32, channel_mult, layers)
    model = load_authors_checkpoint(state, system, spiking_steps=3, sample_size=8)
    named = {sdm_converted_key(name, layers): t for name, t in model.state_dict().items()}
    assert named.keys() == state.keys()
    assert all(torch.equal(named[key].flatten(), state[key].flatten()) for key in state)
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        again = type(model).from_pretrained(folder)(x, 3).sample
        assert torch.equal(model(x, 3).sample, again)
