"""Parity with traces and gradients of SpikingJelly 0.0.0.0.14 (golden file A5)."""

import json

import pytest
import torch

from goldens import GOLDEN, Golden
from spikediff.neurons import IF, LIF, ParametricLIF, charge

CASES = json.loads((GOLDEN / "A5_neurons.json").read_text())["cases"]
SURROGATES = {
    "atan": {"name": "atan", "alpha": 2.0},
    "sigmoid": {"name": "sigmoid", "alpha": 4.0},
    "rect": {"name": "rectangular", "width": 1.0},
}
TOLERANCE = {"f64": 1e-12, "f32": 2e-6}


@pytest.fixture(scope="module")
def a5():
    return Golden("A5_neurons")


TRACES = [(case, p) for case in CASES for p in ("f64", "f32") if p == "f64" or "tie" not in case]


def build(a5, case, precision, **options):
    facts = CASES[case]
    options |= {"v_reset": facts["v_reset"], "v_threshold": 1.0}
    if facts["neuron"] == "IFNode":
        return IF(**options)
    options["decay_input"] = facts["decay_input"]
    if facts["neuron"] == "LIFNode":
        return LIF(tau=facts["tau"], **options)
    neuron = ParametricLIF(init_tau=facts["init_tau"], **options)
    w = a5[f"{case}/{precision}/w"]
    assert neuron.w.item() == pytest.approx(w.item(), abs=1e-7)
    neuron.w.data = w.clone()  # the stored one has all its digits in float64
    return neuron


@pytest.mark.parametrize(("case", "precision"), TRACES)
def test_trace(a5, case, precision):
    want = {key: a5[f"{case}/{precision}/{key}"] for key in ("x", "spikes")}
    neuron = build(a5, case, precision)
    assert torch.equal(neuron(want["x"]), want["spikes"].to(want["x"].dtype))

    state, tolerance = None, TOLERANCE[precision]
    for n, current in enumerate(want["x"]):
        decay = getattr(neuron, "decay", 1.0)
        before = neuron.dynamics.fresh_state(current).v if state is None else state.v
        u = charge(before, current, decay, neuron.dynamics)
        spike, state = neuron.step(current, state)
        trace = f"{case}/{precision}"
        torch.testing.assert_close(
            u, a5[f"{trace}/u_before_reset"][n], atol=tolerance, rtol=0.0, check_dtype=False
        )
        torch.testing.assert_close(
            state.v, a5[f"{trace}/v_after_reset"][n], atol=tolerance, rtol=0.0, check_dtype=False
        )
        assert torch.equal(spike, want["spikes"][n].to(spike.dtype))


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("precision", ["f64", "f32"])
@pytest.mark.parametrize("case", [c for c in CASES if not c.startswith("tie")])
def test_gradient(a5, case, precision, surrogate, detach):
    x = a5[f"{case}/{precision}/x"].clone().requires_grad_()
    neuron = build(a5, case, precision, surrogate=SURROGATES[surrogate], detach_reset=detach)
    neuron(x).backward(a5["upstream_grad"].to(x.dtype))
    which = f"{surrogate}/{'detach_reset' if detach else 'no_detach'}"
    tolerance = TOLERANCE[precision]
    want = a5[f"{case}/{precision}/grad_x/{which}"]
    torch.testing.assert_close(x.grad, want, atol=tolerance, rtol=tolerance)
    if f"{case}/{precision}/grad_w/{which}" in a5.tensors:
        want = a5[f"{case}/{precision}/grad_w/{which}"]
        torch.testing.assert_close(
            neuron.w.grad, want.reshape(()), atol=5 * tolerance, rtol=5 * tolerance
        )
