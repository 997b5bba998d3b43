"""Direct coding, and the contract of the read-outs."""

import pytest
import torch

from spikediff.layers.coding import DECODERS, decayed_sum, direct


def test_direct_coding_repeats_the_input_along_axis_0():
    x = torch.rand(2, 3, 4, 4)
    window = direct(x, 5)
    assert window.shape == (5, 2, 3, 4, 4)
    assert all(torch.equal(step, x) for step in window)


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_removes_time_and_is_linear(name):
    decode = DECODERS[name]
    x, y = torch.randn(2, 4, 2, 3, 5, 5, dtype=torch.float64)
    assert decode(x).shape == (2, 3, 5, 5)
    torch.testing.assert_close(decode(2 * x + y), 2 * decode(x) + decode(y))


def test_decayed_sum_is_the_membrane_of_a_leaky_neuron_that_never_fires():
    from spikediff.neurons import LIF

    currents, neuron, state = torch.rand(6, 10), LIF(1e9, decay=0.8, decay_input=False), None
    for current in currents:
        _, state = neuron.step(current, state)
    torch.testing.assert_close(decayed_sum(currents), state.v)


def test_published_weights():
    assert decayed_sum(torch.eye(4)).tolist() == pytest.approx([0.512, 0.64, 0.8, 1.0])
    assert decayed_sum(torch.ones(8)).item() == pytest.approx(4.161, abs=1e-3)
