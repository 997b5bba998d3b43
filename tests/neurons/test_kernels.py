"""The C kernels against the reference: spikes bit for bit, gradients to rounding."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spikediff.errors import UserError
from spikediff.native import native
from spikediff.neurons import (
    IF,
    LIF,
    SURROGATES,
    Dynamics,
    NeuronState,
    ParametricLIF,
    SignedIF,
    make_surrogate,
    scan,
    window,
)
from spikediff.neurons.kernels import kernel_for, using
from spikediff.neurons.kernels import window as operators

needs_native = pytest.mark.skipif(native() is None, reason="the C kernels are not built")
DECAYS = {"if": 1.0, "lif": 0.7, "plif": torch.tensor(0.7)}
SIZES = [1, 63, 65, 4096 * 3 + 5]  # about a block of 64 lanes, and more than the chunk of a thread


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def currents_of(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.8 + 0.3


def run(kernel, current, dynamics, decay):
    """Return spikes, dL/dI and dL/d(decay) of a window from rest, by one kernel."""
    current = current.detach().requires_grad_()
    learnt = isinstance(decay, torch.Tensor)
    decay = decay.clone().requires_grad_() if learnt else decay
    above = torch.randn(current.shape, generator=torch.Generator().manual_seed(9))
    with using(kernel):
        spikes = window(current, dynamics, decay)
        (spikes * above.to(spikes.dtype)).sum().backward()
    return spikes.detach(), current.grad, decay.grad if learnt else None


def assert_same(current, dynamics, decay):
    """Compare the two kernels; the decay's gradient is a sum, whose terms cancel."""
    spikes, grad, share = run("native", current, dynamics, decay)
    want, want_grad, want_share = run("reference", current, dynamics, decay)
    assert torch.equal(spikes, want)
    assert spikes.dtype == current.dtype
    torch.testing.assert_close(grad, want_grad, rtol=1e-5, atol=1e-5 * float(want_grad.abs().max()))
    if share is not None:
        terms = want_grad.abs().sum().item()
        assert share.item() == pytest.approx(want_share.item(), rel=1e-5, abs=1e-5 * terms)


CONSTANTS = list(product([0.0, None, -0.3], [False, True], [False, True], [False, True]))


@needs_native
@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("neuron", DECAYS)
def test_every_constant(surrogate, neuron):
    current = currents_of(4, 201)
    for v_reset, strict, decay_input, detach in CONSTANTS:
        if neuron == "if" and decay_input:
            continue  # its gain would be 0
        dynamics = Dynamics(
            1.0, v_reset, None, make_surrogate(surrogate), detach, decay_input, None, strict
        )
        assert_same(current, dynamics, DECAYS[neuron])


@needs_native
@pytest.mark.parametrize("steps", [1, 3, 4, 8])
@pytest.mark.parametrize("size", SIZES)
def test_every_size(steps, size):
    current = currents_of(steps, size)
    for decay in DECAYS.values():
        assert_same(current, Dynamics(v_reset=-0.2), decay)


@needs_native
def test_threads_share_a_window(threads):
    """From five chunks on, and with a rest of one that is not whole."""
    for decay in DECAYS.values():
        assert_same(currents_of(4, 5 * 4096 + 37), Dynamics(), decay)


@needs_native
@settings(max_examples=60)
@given(
    st.integers(1, 9),
    st.integers(1, 200),
    st.floats(0.0, 1.0),
    st.floats(0.1, 2.0),
    st.floats(-1.0, 1.0),
    st.sampled_from([0.0, -0.5, 0.05, None]),
    st.integers(0, 2**31),
)
def test_any_constants(steps, size, decay, threshold, v_init, v_reset, seed):
    dynamics = Dynamics(threshold, v_reset, v_init, decay_input=seed % 2 == 0 and decay < 0.99)
    assert_same(currents_of(steps, size, seed=seed), dynamics, decay)


LAYOUTS = {
    "channels last": lambda x: (
        x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2])
    ),
    "expanded": lambda x: x[:1].expand(x.shape),
    "expanded, channels last": lambda x: (
        x[0].contiguous(memory_format=torch.channels_last)[None].expand(x.shape)
    ),
    "transposed": lambda x: x.transpose(1, 2),
    "every other step": lambda x: x.repeat(2, 1, 1, 1, 1)[::2],
    "a part of the channels": lambda x: x[:, :, 1:3],
    "time last": lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0),
    "one pixel": lambda x: x[..., :1, :1],
    "no image": lambda x: x[:, :0],
}


@needs_native
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    current = LAYOUTS[layout](currents_of(4, 2, 5, 6, 7))
    for decay in (1.0, 0.7):
        spikes = [_spikes(kernel, current, decay) for kernel in ("native", "reference")]
        assert torch.equal(*spikes)
        if current.numel():
            assert_same(current, Dynamics(), decay)


def _spikes(kernel, current, decay):
    with using(kernel):
        return window(current, Dynamics(), decay)


@needs_native
@pytest.mark.parametrize("layout", LAYOUTS)
def test_operators_keep_the_contract_of_torch(layout):
    """What `torch.compile` is told of shapes and strides is so; nothing is written or aliased."""
    current = LAYOUTS[layout](currents_of(3, 2, 4, 3, 3))
    constants, learnt = operators.to_constants(Dynamics(), 0.7), torch.tensor(0.7)
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    for kernel in ("native", "reference"):
        with using(kernel):
            for decay in (None, learnt):
                torch.library.opcheck(
                    operators.leaky_integrate_and_fire,
                    (current, constants, decay),
                    test_utils=tests,
                )
                torch.library.opcheck(
                    operators.leaky_integrate_and_fire_backward,
                    (current, torch.ones_like(current), constants, decay),
                    test_utils=tests,
                )


@needs_native
@pytest.mark.parametrize("decay_input", [False, True])
@pytest.mark.parametrize("v_reset", [0.0, -0.3, None])
def test_a_state_and_a_stream(v_reset, decay_input):
    """Membranes bit for bit, too: they round as the reference's do."""
    current, first = currents_of(5, 700), currents_of(700, seed=1)
    for decay in DECAYS.values():
        dynamics = Dynamics(v_reset=v_reset, decay_input=decay_input)
        with using("reference"):
            want, last = scan(current, dynamics, decay, NeuronState(first))
        with using("native"):
            spikes, v = scan(current, dynamics, decay, NeuronState(first))
        assert torch.equal(spikes, want)
        assert torch.equal(v.v, last.v)
    with using("native"):
        neuron, state, steps = LIF(v_reset=v_reset), None, []
        whole = neuron(current)
        for x in current:
            spike, state = neuron.step(x, state)
            steps.append(spike)
    assert torch.equal(torch.stack(steps), whole)


@needs_native
def test_a_state_of_another_layout():
    current = LAYOUTS["channels last"](currents_of(4, 2, 5, 6, 7))
    first = currents_of(2, 5, 6, 7, seed=1)  # contiguous, the currents are not
    spikes, state = scan(current, Dynamics(), state=NeuronState(first))
    with using("reference"):
        want, last = scan(current, Dynamics(), state=NeuronState(first))
    assert torch.equal(spikes, want)
    assert torch.equal(state.v, last.v)


@needs_native
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_has_float32_membranes(dtype):
    for v_reset in (0.0, -0.3):
        assert_half(currents_of(8, 130).to(dtype), Dynamics(v_reset=v_reset))
    small = torch.full((8, 1), 2.0**-11, dtype=dtype)
    spikes, state = scan(small, Dynamics(v_init=0.75))
    assert state.v.dtype == torch.float32
    assert state.v.item() == 0.75 + 8 * 2.0**-11  # in half precision nothing would have come of it
    assert spikes.sum() == 0


def assert_half(current, dynamics):
    for decay in (1.0, 0.7):
        spikes, grad, _ = run("native", current, dynamics, decay)
        want, want_grad, _ = run("reference", current, dynamics, decay)
        assert spikes.dtype == grad.dtype == current.dtype
        assert torch.equal(spikes, want)
        one = torch.finfo(current.dtype).eps  # both are rounded to half precision at the end
        torch.testing.assert_close(grad, want_grad, rtol=one, atol=one * float(grad.abs().max()))


@needs_native
def test_what_the_c_kernel_leaves_to_the_reference():
    current = currents_of(4, 3)
    assert kernel_for(current, Dynamics()) == "native"
    assert kernel_for(current.double(), Dynamics()) == "reference"
    assert kernel_for(current.expand(1, 4, 3).repeat(129, 1, 1), Dynamics()) == "reference"
    assert kernel_for(current, SignedIF().dynamics) == "reference"
    for refused in (current.double(), currents_of(129, 1)):
        with using("native"), pytest.raises(UserError, match="native kernel"):
            IF()(refused)
    with using("native"), pytest.raises(UserError, match="native kernel"):
        SignedIF()(current)


@needs_native
def test_128_steps_fit_the_stack(threads):
    assert_same(currents_of(128, 4096 * 4 + 1), Dynamics(), 0.9)


def test_using_nests_restores_and_refuses():
    current = currents_of(2, 2)
    default = kernel_for(current, Dynamics())
    with using("reference"):
        assert kernel_for(current, Dynamics()) == "reference"
        with pytest.raises(UserError, match="did you mean 'native'"), using("nativ"):
            pass
        with using("native"):
            if native() is not None:
                assert kernel_for(current, Dynamics()) == "native"
        assert kernel_for(current, Dynamics()) == "reference"
        with pytest.raises(ZeroDivisionError), using("native"):
            1 / 0  # noqa: B018
        assert kernel_for(current, Dynamics()) == "reference"
    assert kernel_for(current, Dynamics()) == default


@pytest.mark.parametrize("layer", [IF, LIF, ParametricLIF])
def test_nothing_but_the_input_is_kept_for_backward(layer):
    current, kept = currents_of(4, 100).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        layer()(current)
    windows = [x for x in kept if x.dim()]
    assert [x.data_ptr() for x in windows] == [current.data_ptr()]
    assert len(kept) - len(windows) <= (layer is ParametricLIF) * 2  # its decay and its w: 0-dim


@needs_native
@pytest.mark.parametrize("decay_input", [False, True])
def test_gradient_of_a_learnt_decay_is_that_of_float64(decay_input):
    current = currents_of(6, 500)
    grads = []
    for x, kernel in ((current, "native"), (current.double(), "reference")):
        neuron = ParametricLIF(init_tau=3.0, decay_input=decay_input).to(x.dtype)
        with using(kernel):
            (neuron(x) * x.cos()).sum().backward()
        grads.append(next(neuron.parameters()).grad.item())
    assert grads[0] == pytest.approx(grads[1], rel=1e-4)


@needs_native
def test_a_learnt_decay_that_has_become_one():
    """The gain of the input is 0 then, and the gradient of the decay is not."""
    assert_same(currents_of(4, 70), Dynamics(v_init=0.9, decay_input=True), torch.tensor(1.0))


def test_half_window_gradient_flows_to_what_made_the_currents():
    """A scalar loss expands its gradient (stride 0); the kernel reads what autograd means."""
    current = currents_of(4, 2, 3, 5, 5)
    for make in LAYOUTS.values():
        x = make(current).detach().requires_grad_()
        IF()(x).sum().backward()
        with using("reference"):
            (want,) = torch.autograd.grad(IF()(x).sum(), x)
        torch.testing.assert_close(x.grad, want, rtol=1e-5, atol=1e-6)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.neuron, self.last = nn.Conv2d(1, 4, 3), IF(), nn.Conv2d(4, 2, 3)

    def forward(self, x):  # [B, 1, H, W]
        current = self.first(x).expand(4, -1, -1, -1, -1)
        spikes = self.neuron(current)  # [T, B, 4, H', W']
        return self.last(spikes.flatten(0, 1))


def test_constants_cross_the_border_unchanged():
    for v_reset, strict, decay_input, detach in CONSTANTS:
        for surrogate in SURROGATES:
            dynamics = Dynamics(
                0.9, v_reset, 0.1, make_surrogate(surrogate), detach, decay_input, None, strict
            )
            constants = operators.to_constants(dynamics, 0.7)
            assert operators._from_constants(constants) == (0.7, dynamics)


def test_export_shows_a_neuron_as_one_operator():
    torch.manual_seed(0)
    model, x = Small().eval(), currents_of(2, 1, 8, 8)
    exported = torch.export.export(model, (x,))
    targets = [str(node.target) for node in exported.graph.nodes]
    assert targets.count("spikediff.leaky_integrate_and_fire.default") == 1
    assert torch.equal(exported.module()(x), model(x))


@pytest.mark.filterwarnings("error:Dynamo")
def test_dynamo_warns_of_nothing():
    torch.manual_seed(0)
    torch.compiler.reset()
    model, x = Small(), currents_of(2, 1, 8, 8)
    assert torch.equal(torch.compile(model, fullgraph=True, backend="eager")(x), model(x))


@pytest.mark.slow
def test_compile_without_a_break():
    torch.manual_seed(0)
    model, x = Small(), currents_of(2, 1, 8, 8)
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-6)
    grads = []
    for net in (model, compiled):
        model.zero_grad()
        net(x).square().sum().backward()
        grads.append(model.first.weight.grad.clone())
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)
