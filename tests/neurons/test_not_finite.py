"""NaN and infinity come out of every neuron, by every kernel, as NaN."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikediff.events import compile_for_inference
from spikediff.native import native
from spikediff.neurons import (
    IF,
    LIF,
    SURROGATES,
    IntegerNeuron,
    ParametricLIF,
    SignedIF,
    make_surrogate,
    unroll,
)
from spikediff.neurons.kernels import using
from spikediff.systems.converted.layers import ConvertedIF, QuantisedReLU

KERNELS = ["reference", *(["native"] if native() is not None else [])]
BAD = st.sampled_from([torch.nan, torch.inf, -torch.inf])
NEURONS = {
    "if": IF,
    "lif": LIF,
    "plif": ParametricLIF,
    "soft": lambda **more: LIF(v_reset=None, decay_input=True, **more),
    "forgets": lambda **more: LIF(tau=1.0, **more),
}


def currents_of(steps, size, seed):
    return torch.randn(steps, size, generator=torch.Generator().manual_seed(seed)) * 0.8 + 0.3


@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=40)
@given(
    st.sampled_from(list(NEURONS)),
    st.sampled_from(list(SURROGATES)),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    st.integers(1, 6),
    st.integers(1, 150),
    BAD,
    st.data(),
)
def test_a_window(kernel, neuron, surrogate, detach, dtype, steps, size, bad, data):
    n, i = data.draw(st.integers(0, steps - 1)), data.draw(st.integers(0, size - 1))
    layer = NEURONS[neuron](surrogate=make_surrogate(surrogate), detach_reset=detach)
    current = currents_of(steps, size, steps * size).to(dtype)
    spoilt = current.clone()
    spoilt[n, i] = bad
    spoilt.requires_grad_()
    with using(kernel):
        spikes, want = layer(spoilt), layer(current)
        streamed, _ = layer.run(spoilt)
        spikes.nan_to_num().sum().backward()
    assert spikes[n:, i].isnan().all()
    assert streamed[n:, i].isnan().all()
    assert spoilt.grad[n:, i].isnan().all()
    spikes, want = spikes.detach(), want.detach().clone()
    want[n:, i] = spikes[n:, i]
    assert torch.equal(spikes.nan_to_num(7.0), want.nan_to_num(7.0))


@settings(max_examples=40)
@given(BAD, st.integers(1, 5), st.data())
def test_neurons_without_a_compiled_kernel(bad, steps, data):
    n = data.draw(st.integers(0, steps - 1))
    current = currents_of(steps, 3, steps)
    current[n, 1] = bad
    for layer in (SignedIF(), ConvertedIF(), ConvertedIF(signed=False)):
        spikes = layer(current)
        assert spikes[n:, 1].isnan().all()
        assert spikes[:, [0, 2]].isfinite().all()


@given(BAD, st.integers(1, 9), st.sampled_from([None, 1, 2, 4]))
def test_counts_and_quantised_activations(bad, levels, bits):
    v = torch.tensor([[[[0.4, bad], [-3.0, 9.0]]]])
    v.requires_grad_()
    neuron = IntegerNeuron(channels=1, levels=levels)
    for found in (neuron(v), unroll(neuron(v), levels)[0], QuantisedReLU(bits)(v)):
        assert found.isnan().sum() == found[0, 0, 0, 1].isnan() == 1
    neuron(v).sum().backward()
    assert neuron.log_theta.grad.isnan()


@pytest.mark.skipif(native() is None, reason="the C kernels are not built")
@pytest.mark.parametrize("weights", ["float32", "int16", "int8"])
@given(BAD)
@settings(max_examples=6)
def test_spikes_as_bits(weights, bad):
    torch.manual_seed(0)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.neuron, self.conv = IF(), torch.nn.Conv2d(64, 3, 3, padding=1)

        def forward(self, current):
            return self.conv(self.neuron(current).flatten(0, 1))

    fast = compile_for_inference(Net().eval(), weights)
    current = torch.randn(4, 2, 64, 5, 5)
    assert fast(current).isfinite().all()
    current[2, 1, 63, 4, 4] = bad
    out = fast(current).unflatten(0, (4, 2))
    assert out[2:, 1, :, 4, 4].isnan().all()
    assert out[:, 0].isfinite().all()
