"""Direct coding, read-outs, features of spike trains and their distance."""

import pytest
import torch

from spikediff.errors import UserError
from spikediff.layers.coding import (
    DECODERS,
    decayed_sum,
    direct,
    mean,
    postsynaptic_potential,
    psp_mmd,
    rate_and_membrane,
    rate_and_potential,
)


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


def test_values_of_a_neuron_that_always_fires():
    ones = torch.ones(16, dtype=torch.float64)
    assert mean(ones).item() == 1.0
    membrane = (1 - 0.8**16) / 0.2  # 4.85926; the authors' single precision gives 4.8592621
    assert decayed_sum(ones).item() == pytest.approx(membrane, abs=1e-12)
    assert membrane == pytest.approx(4.8592621, abs=5e-7)
    assert postsynaptic_potential(ones)[-1].item() == pytest.approx(1 - 2**-16, abs=1e-15)
    assert rate_and_potential(ones, 0.25).item() == pytest.approx(0.25 + 0.75 * (1 - 2**-16))
    assert rate_and_membrane(ones, 0.25).item() == pytest.approx(0.25 + 0.75 * membrane)


def test_only_the_rate_is_blind_to_the_order():
    early, late = torch.eye(16)[0], torch.eye(16)[-1]
    assert rate_and_potential(early, 1.0) == rate_and_potential(late, 1.0)
    assert rate_and_potential(late, 0.0) == pytest.approx(0.5)
    assert rate_and_potential(early, 0.0) == pytest.approx(0.5**16)
    assert rate_and_membrane(early, 0.0).item() == pytest.approx(0.8**15)


def test_weights_of_another_decay():
    weights = torch.tensor([0.25, 0.5, 1.0])
    spikes = torch.tensor([1.0, 0.0, 1.0])
    assert rate_and_membrane(spikes, 0.0, weights).item() == 1.25


def test_distance_by_hand():
    # PSP, tau 2: [1/2, 1/4, 1/8] of the first, [0, 1/2, 1/4] of the second
    a, b = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    assert psp_mmd(a, b).item() == pytest.approx((1 / 4 + 1 / 16 + 1 / 64) / 3)
    # tau 4: [1/4, 3/16, 9/64] and [0, 1/4, 3/16]
    want = ((1 / 4) ** 2 + (1 / 16) ** 2 + (3 / 64) ** 2) / 3
    assert psp_mmd(a, b, tau_syn=4.0).item() == pytest.approx(want)


def test_distance_is_the_mean_square_of_the_potentials():
    a, b = torch.rand(2, 8, 3, 4, 5, 5, dtype=torch.float64).round()
    want = (postsynaptic_potential(a, 3.0) - postsynaptic_potential(b, 3.0)).square().mean()
    torch.testing.assert_close(psp_mmd(a, b, 3.0), want)
    assert psp_mmd(a, a) == 0
    assert psp_mmd(a, b) == psp_mmd(b, a)


def test_near_misses_cost_less_than_far_ones():
    """What a mean squared error of the spikes themselves would not see."""
    spike = torch.eye(8)
    assert psp_mmd(spike[2], spike[3]) < psp_mmd(spike[2], spike[6])


def test_the_gradient_reaches_both_sides():
    a, b = (torch.rand(4, 3, requires_grad=True) for _ in range(2))
    psp_mmd(a, b).backward()
    torch.testing.assert_close(a.grad, -b.grad)
    assert a.grad.abs().sum() > 0


def test_distance_of_three_steps_by_hand():
    a = torch.tensor([1.0, 0.0, 1.0])  # PSP 0.5, 0.25, 0.625
    b = torch.tensor([0.0, 1.0, 1.0])  # PSP 0, 0.5, 0.75
    want = (0.5**2 + 0.25**2 + 0.125**2) / 3
    assert psp_mmd(a, b).item() == pytest.approx(want, rel=1e-6)
    assert psp_mmd(a, b, tau_syn=1.0).item() == pytest.approx(2 / 3)  # no memory: plain spikes


def test_distance_is_squared():
    a, b = (torch.rand(2, 16, 3, 5) < 0.3).double()
    assert psp_mmd(a, a).item() == 0.0
    assert psp_mmd(a, b) == psp_mmd(b, a) > 0
    assert psp_mmd(3 * a, 3 * b).item() == pytest.approx(9 * psp_mmd(a, b).item())


def test_a_synapse_faster_than_a_step_is_refused():
    with pytest.raises(UserError, match=r"tau_syn = 0\.5"):
        psp_mmd(torch.zeros(4), torch.zeros(4), tau_syn=0.5)
