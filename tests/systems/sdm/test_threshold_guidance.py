"""Laws of threshold guidance: threshold k equals inputs / k, nothing leaks, blocks multiply."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from goldens import Golden
from sizes import U_NET
from spikediff.errors import UserError
from spikediff.neurons import IF, NEURONS, Dynamics, IntegerNeuron, NeuronLayer, SignedIF, scan
from spikediff.systems.released import load_authors_checkpoint
from spikediff.systems.sddpm.network import SpikingUNet
from spikediff.systems.sdm.threshold_guidance import (
    parse_numbers,
    parse_scale,
    scale_potentials,
    threshold_guidance,
)

T = 6


def currents(seed):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(T, 40, generator=generator, dtype=torch.float64)


@st.composite
def neurons(draw):
    """Any neuron, with any potentials that it can have."""
    name = draw(st.sampled_from(sorted(NEURONS)))
    options = {
        "v_threshold": draw(st.sampled_from([0.5, 1.0, 1.7])),
        "v_init": draw(st.sampled_from([None, 0.25, -0.4])),
    }
    if name == "signed_if":
        options["v_negative"] = draw(st.sampled_from([0.0, 1e-3, 0.3]))
    else:
        options["v_reset"] = draw(st.sampled_from([None, 0.0, -0.6, 0.3]))
    if name in ("lif", "plif"):
        options["decay_input"] = draw(st.booleans())
    return NEURONS[name](**options).double()


@settings(max_examples=150)
@given(neurons(), st.sampled_from([0.25, 0.5, 2.0, 8.0]), st.integers(0, 2**31))
@torch.no_grad()
def test_threshold_k_equals_inputs_over_k_also_in_the_membranes(neuron, k, seed):
    """Powers of two lose no bit, so that even the membranes are exactly k times as large."""
    current = currents(seed)
    spikes, state = scan(current / k, neuron.dynamics, neuron.decay)
    with threshold_guidance(neuron, k):
        guided, scaled = scan(current, neuron.dynamics, neuron.decay)
    assert torch.equal(guided, spikes)
    assert torch.equal(scaled.v, k * state.v)


@settings(max_examples=150)
@given(neurons(), st.floats(0.3, 3.0), st.integers(0, 2**31))
@torch.no_grad()
def test_threshold_k_equals_inputs_over_k_for_any_k(neuron, k, seed):
    current = currents(seed)
    want = neuron(current / k)
    with threshold_guidance(neuron, k):
        # In float64 no membrane of random currents lies within rounding of a threshold.
        assert torch.equal(neuron(current), want)


@pytest.mark.parametrize("neuron", [IF(v_reset=-0.6), IF(v_init=0.25), SignedIF(v_negative=0.3)])
def test_the_threshold_alone_would_break_the_law(neuron):
    current, k = currents(0), 0.5
    want = neuron(current / k)
    alone = replace(neuron.dynamics, v_threshold=k)
    assert not torch.equal(scan(current, alone, neuron.decay)[0], want)
    assert torch.equal(scan(current, scale_potentials(neuron.dynamics, k))[0], want)


def test_of_the_papers_neurons_only_the_threshold_changes():
    for dynamics in (Dynamics(), Dynamics(v_reset=None)):
        assert scale_potentials(dynamics, 0.997) == replace(dynamics, v_threshold=0.997)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SpikingUNet(**U_NET).eval()


SAMPLE = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def estimate(model, timestep=500):
    return model(SAMPLE, timestep).sample


def thresholds(model):
    return {n: m.dynamics for n, m in model.named_modules() if isinstance(m, NeuronLayer)}


def scales(model):
    return {name: dynamics.v_threshold for name, dynamics in thresholds(model).items()}


@pytest.mark.parametrize("k", [0.5, 4.0])
def test_a_guided_network_is_one_whose_neurons_get_their_inputs_over_k(k, model):
    def divide(_module, inputs):
        return (inputs[0] / k,)

    layers = [m for m in model.modules() if isinstance(m, NeuronLayer)]
    hooks = [layer.register_forward_pre_hook(divide) for layer in layers]
    want = estimate(model)
    for hook in hooks:
        hook.remove()
    with threshold_guidance(model, k):
        got = estimate(model)
    assert torch.equal(got, want)
    assert not torch.equal(got, estimate(model))


def test_scale_one_changes_no_bit(model):
    with threshold_guidance(model, 1):
        got = estimate(model)
    assert torch.equal(got, estimate(model))


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 2e-5), (torch.float64, 1e-10)])
def test_the_authors_network_at_threshold_0997(dtype, atol):
    golden = Golden("A2_sdm_tsm_unet")
    model = load_authors_checkpoint(golden.state(), "sdm", sample_size=16).to(dtype)
    prefix = "out" if dtype == torch.float32 else "out64"
    with torch.no_grad(), threshold_guidance(model, 0.997):
        got = model(golden["in/x"].to(dtype), golden["in/t"]).sample
    torch.testing.assert_close(got, golden[f"{prefix}/eps_th0.997"], atol=atol, rtol=0)
    assert not torch.allclose(got, golden[f"{prefix}/eps"].to(dtype), atol=100 * atol)


KINDS = [0.9, {"stem": 0.9}, lambda t: 0.9, [0.9]]


@pytest.mark.parametrize("scale", KINDS)
@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["between calls", "inside a call"])
def test_nothing_leaks(scale, error, where, model):
    before, hooks = thresholds(model), (len(model._forward_hooks), len(model._forward_pre_hooks))

    def fail(*_):
        raise error

    def use():
        with threshold_guidance(model, scale):
            estimate(model)
            fail()

    broken = model.head.register_forward_pre_hook(fail) if where == "inside a call" else None
    with pytest.raises(error):
        use()
    if broken is not None:
        broken.remove()
    after = thresholds(model)
    assert all(after[name] is dynamics for name, dynamics in before.items())
    assert (len(model._forward_hooks), len(model._forward_pre_hooks)) == hooks


def test_a_schedule_changes_the_model_during_its_calls_only(model):
    seen = []
    watch = model.head.register_forward_pre_hook(lambda *_: seen.append(scales(model)))
    before = scales(model)
    with threshold_guidance(model, lambda t: 1 + t / 1000):
        assert scales(model) == before
        for timestep in (500, torch.tensor(250), torch.tensor([125, 125])):
            estimate(model, timestep)
            assert scales(model) == before
    watch.remove()
    assert [set(s.values()) for s in seen] == [{1.5}, {1.25}, {1.125}]


def test_blocks_multiply_and_unwind(model):
    seen = []
    watch = model.head.register_forward_pre_hook(
        lambda *_: seen.append(scales(model)["stem.neuron"])
    )
    with threshold_guidance(model, 0.5):
        with threshold_guidance(model, lambda _t: 3.0), threshold_guidance(model, {"stem": 7.0}):
            with threshold_guidance(model, [11.0]):
                estimate(model)
            estimate(model)
        estimate(model)
    estimate(model)
    watch.remove()
    assert seen == [0.5 * 3 * 7 * 11, 0.5 * 3 * 7, 0.5, 1.0]


def test_the_same_block_may_be_entered_in_either_order_of_kinds(model):
    with threshold_guidance(model, 0.5), threshold_guidance(model, [0.75]):
        one = estimate(model)
    with threshold_guidance(model, [0.75]), threshold_guidance(model, 0.5):
        other = estimate(model)
    with threshold_guidance(model, 0.375):
        assert torch.equal(estimate(model), one)
    assert torch.equal(one, other)


def test_layers_by_pattern(model):
    with threshold_guidance(model, 0.5, layers=["stem", "up_blocks.0.*"]):
        chosen = {name for name, threshold in scales(model).items() if threshold == 0.5}
    assert chosen == {"stem.neuron", "up_blocks.0.neuron1", "up_blocks.0.neuron2"}
    with threshold_guidance(model, 0.5, layers="*.neuron2"):
        assert {n for n, k in scales(model).items() if k == 0.5} == {
            name for name in scales(model) if name.endswith(".neuron2")
        }


def test_the_last_pattern_that_fits_counts(model):
    with threshold_guidance(model, {"*": 0.5, "stem": 2.0}):
        found = scales(model)
    assert found.pop("stem.neuron") == 2.0
    assert set(found.values()) == {0.5}


def test_a_scale_is_relative_to_the_own_threshold():
    layers = nn.Sequential(IF(v_threshold=2.0), IF(v_threshold=0.5, v_reset=None))
    with threshold_guidance(layers, np.float32(0.5)):
        assert [layer.dynamics.v_threshold for layer in layers] == [1.0, 0.25]


def run(model, timesteps):
    seen = []
    watch = model.head.register_forward_pre_hook(
        lambda *_: seen.append(scales(model)["stem.neuron"])
    )
    try:
        for timestep in timesteps:
            estimate(model, timestep)
    finally:
        watch.remove()
    return seen


@pytest.mark.parametrize("schedule", [[0.5, 1.0, 2.0], torch.tensor([0.5, 1.0, 2.0])])
def test_a_scale_a_step(schedule, model):
    with threshold_guidance(model, schedule):
        assert run(model, [900, 600, 0]) == [0.5, 1, 2]
        assert run(model, [900, 600, 600, 0, 0]) == [0.5, 1, 1, 2, 2]  # two calls a step


@pytest.mark.parametrize(
    ("timesteps", "word"),
    [
        ([900, 600, 300, 0], "3 scales, but the run has a step beyond"),
        ([900, 600, 900], "only 2 steps"),
        ([900, 600], "only 2 steps"),
    ],
)
def test_a_run_of_another_length_than_its_schedule_is_told(timesteps, word, model):
    before = thresholds(model)
    with pytest.raises(UserError, match=word), threshold_guidance(model, [0.5, 1.0, 2.0]):
        run(model, timesteps)
    assert thresholds(model) == before


@pytest.mark.parametrize("scale", [0, -1, math.nan, math.inf, "0.997", None, {"stem": 0}, [1, 0]])
def test_what_is_no_scale_is_refused(scale, model):
    with pytest.raises(UserError, match="scale = "), threshold_guidance(model, scale):
        pass


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"scale": 0.9, "layers": "stemm"}, "'stemm'; there are stem.neuron, down_blocks.0"),
        ({"scale": {"stem": 0.9, "tail.*": 0.9}}, "'tail.*'"),
        ({"scale": {"stem": 0.9}, "layers": "stem"}, "omit `layers`"),
        ({"scale": 0.9, "layers": []}, "no layer is named"),
        ({"scale": {}}, "no layer is named"),
        ({"scale": []}, "empty"),
    ],
)
def test_what_fits_no_layer_is_told(options, word, model):
    with (
        pytest.raises(UserError, match=word.replace("*", r"\*")),
        threshold_guidance(model, **options),
    ):
        pass


def test_a_model_without_thresholds_to_scale_is_refused():
    with pytest.raises(UserError, match="IntegerNeuron: has no spiking neurons to guide"):
        threshold_guidance(IntegerNeuron(2, levels=4), 0.9).__enter__()
    with pytest.raises(UserError, match="Linear: has no spiking neurons"):
        threshold_guidance(nn.Linear(2, 2), 0.9).__enter__()
    with pytest.raises(UserError, match=r"SimpleNamespace is no network; .* such as pipe\.unet"):
        threshold_guidance(SimpleNamespace(components={}), 0.9).__enter__()


def test_images_of_different_timesteps_have_no_scheduled_scale(model):
    before = thresholds(model)
    with pytest.raises(UserError, match="one timestep"), threshold_guidance(model, lambda t: 0.9):
        estimate(model, torch.tensor([1, 2]))
    assert thresholds(model) == before


def test_a_scale_that_the_precision_swallows_is_refused(model):
    """In bfloat16 1.001 is 1: such guidance would silently do nothing."""
    half = SpikingUNet(**U_NET).bfloat16()
    with pytest.raises(UserError, match=r"in bfloat16 a threshold of 1\.001 is the same as 1"):
        threshold_guidance(half, 1.001).__enter__()
    with pytest.raises(UserError, match=r"in bfloat16 a threshold of 0\.9999 is the same as 1"):
        threshold_guidance(half, [0.98, 0.9999]).__enter__()
    with threshold_guidance(half, 0.98), threshold_guidance(model, 1.001):
        pass


def test_scales_as_typed():
    assert parse_scale(" 0.997 ") == 0.997
    assert parse_scale("stem=0.9, up_blocks.*=1.1") == {"stem": 0.9, "up_blocks.*": 1.1}
    assert parse_scale("0.9,1.1") == parse_numbers("0.9,1.1") == (0.9, 1.1)


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "nan", "inf", "1,,2", "stem=", "stem=1,2"])
def test_what_is_no_scale_is_told(text):
    with pytest.raises(UserError, match="is not a positive number; write"):
        parse_scale(text)
