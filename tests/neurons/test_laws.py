"""Laws of the neurons: hand-computed traces, identities, gradients against autograd's own."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikediff.errors import UserError
from spikediff.neurons import (
    IF,
    LIF,
    NEURONS,
    SURROGATES,
    Dynamics,
    NeuronState,
    ParametricLIF,
    SignedIF,
    charge,
    fire,
    make_surrogate,
    reset,
    scan,
)

CURRENTS = torch.randn(6, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_hand_computed_membrane_of_a_leaky_neuron():
    """decay 0.5, input unscaled: 0.6, 0.9, 1.05 (fires), 0.6, 0.9."""
    neuron, state, trace, spikes = LIF(decay=0.5, decay_input=False), None, [], []
    for _ in range(5):
        spike, state = neuron.step(torch.tensor(0.6, dtype=torch.float64), state)
        trace.append(state.v.item())
        spikes.append(spike.item())
    assert spikes == [0, 0, 1, 0, 0]
    assert trace == pytest.approx([0.6, 0.9, 0.0, 0.6, 0.9])


def test_soft_reset_keeps_the_remainder():
    spikes = IF(v_reset=None)(torch.full((5,), 0.7, dtype=torch.float64))
    assert spikes.tolist() == [0, 1, 1, 0, 1]  # 3 spikes for a total input of 3.5


def test_signed_neuron_takes_spikes_back_but_never_owes_any():
    neuron = SignedIF(v_threshold=1.0, v_init=0.5)
    assert neuron(torch.tensor([0.6, -1.0, -1.0])).tolist() == [1, -1, 0]
    spikes = SignedIF()(CURRENTS)
    assert (spikes.cumsum(0) >= 0).all()
    assert set(spikes.unique().tolist()) == {-1.0, 0.0, 1.0}


@pytest.mark.parametrize("name", NEURONS)
def test_a_window_equals_its_steps(name):
    neuron = NEURONS[name]().double()
    window, state, steps = neuron(CURRENTS), None, []
    for current in CURRENTS:
        spike, state = neuron.step(current, state)
        steps.append(spike)
    assert torch.equal(window, torch.stack(steps))


@pytest.mark.parametrize("name", NEURONS)
def test_a_module_remembers_nothing(name):
    neuron = NEURONS[name]().double()
    first = neuron(CURRENTS)
    neuron(CURRENTS[:, :1])  # another batch size in between
    assert torch.equal(first, neuron(CURRENTS))
    assert not list(neuron.buffers())


@settings(max_examples=50)
@given(st.floats(0.25, 4.0), st.integers(0, 2**31))
def test_threshold_k_equals_inputs_over_k(k, seed):
    """The identity behind threshold guidance; powers of two make it exact, others to rounding."""
    currents = torch.randn(4, 50, generator=torch.Generator().manual_seed(seed)).double()
    got, want = IF(v_threshold=k)(currents * k), IF()(currents)
    assert (got != want).float().mean() < 0.02
    k = 2.0 ** round(k)
    assert torch.equal(IF(v_threshold=k)(currents * k), want)


def tape(currents, decay, dynamics):
    """The same recurrence through autograd's tape, with the surrogate as a straight-through."""
    state, spikes = dynamics.fresh_state(currents[0]), []
    for current in currents:
        u = charge(state.v, current, decay, dynamics)
        z = (u - dynamics.v_threshold).detach()
        slope = dynamics.surrogate.derivative(z.clone())
        hard = fire(u, None, dynamics).detach()
        s = hard + slope * (u - u.detach())  # value of the step, derivative of the surrogate
        r = s.detach() if dynamics.detach_reset else s
        if dynamics.v_reset is None:
            v = u - r * dynamics.v_threshold
        else:
            v = (1 - r) * u + r * dynamics.v_reset
        state = NeuronState(v)
        spikes.append(s)
    return torch.stack(spikes), state.v


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("v_reset", [0.0, -0.3, None])
@pytest.mark.parametrize("detach_reset", [False, True])
@pytest.mark.parametrize("decay_input", [False, True])
def test_backward_equals_autograd(surrogate, v_reset, detach_reset, decay_input):
    options = (1.0, v_reset, None, make_surrogate(surrogate), detach_reset, decay_input)
    weights = torch.randn_like(CURRENTS)
    grads = []
    for run in (lambda c, d: tape(c, d, Dynamics(*options)), lambda c, d: ours(c, d, options)):
        currents = (1.5 * CURRENTS).requires_grad_()
        decay = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        spikes, v = run(currents, decay)
        ((spikes * weights).sum() + (v * weights[0]).sum()).backward()
        grads.append((currents.grad, decay.grad))
    torch.testing.assert_close(grads[1][0], grads[0][0], atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(grads[1][1], grads[0][1], atol=1e-10, rtol=1e-10)


def ours(currents, decay, options):
    spikes, state = scan(currents, Dynamics(*options), decay)
    return spikes, state.v


def test_state_carries_gradient_across_windows():
    currents = CURRENTS.clone().requires_grad_()
    whole = IF()(currents)
    (whole_grad,) = torch.autograd.grad(whole.sum(), currents)
    first, state = scan(currents[:3], Dynamics())
    second, _ = scan(currents[3:], Dynamics(), state=state)
    (parts_grad,) = torch.autograd.grad(first.sum() + second.sum(), currents)
    torch.testing.assert_close(parts_grad, whole_grad, atol=1e-14, rtol=0)


@pytest.mark.parametrize("name", SURROGATES)
def test_surrogate_is_even_and_peaks_at_the_threshold(name):
    z = torch.linspace(-3, 3, 6001, dtype=torch.float64)
    g = make_surrogate(name).derivative(z)
    torch.testing.assert_close(g, g.flip(0))
    assert g.argmax() == 3000 or g[3000] == g.max()


@pytest.mark.parametrize(
    "spec", ["atan", "sigmoid", "rectangular", {"name": "rectangular", "width": 0.4}]
)
def test_surrogates_of_unit_area(spec):
    z = torch.linspace(-2000, 2000, 4_000_001, dtype=torch.float64)
    area = make_surrogate(spec).derivative(z).sum().item() * 1e-3
    assert area == pytest.approx(1.0, abs=3e-3)  # a rectangle's edges cost the sum a cell each


def test_reset_and_rest():
    hard = Dynamics(v_reset=-0.5)
    assert reset(torch.tensor([1.2, 0.3]), torch.tensor([1.0, 0.0]), hard).tolist() == [
        -0.5,
        pytest.approx(0.3),
    ]
    assert hard.fresh_state(torch.zeros(1)).v.item() == -0.5


def test_learnt_time_constant_reaches_the_optimizer():
    neuron = ParametricLIF(init_tau=3.0)
    neuron(torch.rand(4, 10)).sum().backward()
    assert neuron.w.grad is not None
    assert neuron.w.grad.abs() > 0


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: IF(v_threshold=0.0), "v_threshold"),
        (lambda: IF(v_reset=1.0), "v_reset"),
        (lambda: LIF(tau=0.5), "tau"),
        (lambda: LIF(tau=2.0, decay=0.5), "not both"),
        (lambda: LIF(decay=1.5), "decay"),
        (lambda: LIF(decay="0.5"), r"decay = '0\.5' must be a finite number"),
        (lambda: LIF(tau="2"), "tau = '2' must be"),
        (lambda: ParametricLIF(init_tau=None), "init_tau = None must be"),
        (lambda: SignedIF(v_threshold="1"), "v_threshold = '1' must be a finite number"),
        (lambda: SignedIF(v_negative="1"), "v_negative = '1' must be a finite number"),
        (lambda: ParametricLIF(init_tau=1.0), "init_tau"),
        (lambda: SignedIF(v_negative=-1.0), "v_negative"),
        (lambda: IF(surrogate="atann"), "did you mean 'atan'"),
        (lambda: IF(surrogate={"name": "atan", "width": 1.0}), "unknown option"),
        (lambda: IF(surrogate={"name": "atan", "alpha": 0.0}), "positive"),
        (lambda: IF(surrogate={"name": "atan", "alpha": True}), "alpha = True must be a finite"),
        (lambda: IF(surrogate=3), "surrogate = 3 is not a surrogate"),
        (lambda: IF(v_threshold="1"), "v_threshold = '1' must be a finite number"),
        (lambda: IF(v_init=math.nan), "v_init = nan must be a finite number"),
        (lambda: IF(detach_reset=1), "detach_reset = 1 must be true or false"),
        (lambda: IF()(torch.zeros(4, dtype=torch.int64)), "floating-point"),
        (lambda: IF()(torch.zeros(0, 3)), "T >= 1"),
    ],
)
def test_bad_constants_are_told(make, word):
    with pytest.raises(UserError, match=word):
        make()
