"""The Triton kernel beside the reference; `test_triton.py` runs this in a process of its own.

In Triton's interpreter spikes and membranes are the reference's, bit for bit. On a GPU a membrane
that meets the threshold in its last bit may fall on the other side.
"""

import itertools
import os

import pytest
import torch

from spikediff.neurons.dynamics import Dynamics
from spikediff.neurons.kernels import kernel_for, reference, triton_kernel, using
from spikediff.neurons.scan import scan, window
from spikediff.neurons.surrogate import ATan, Rectangular, Sigmoid, Triangular

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
TIES = 0.0 if INTERPRETED else 1e-5
SIZES = [(1,), (7,), (3, 11, 13), (2, 1024), (2057,)]
RESETS = [0.0, -0.25, None]
SURROGATES = [
    ATan(),
    ATan(3.0),
    Sigmoid(),
    Rectangular(0.8),
    Rectangular(1.2, center=-0.5),
    Triangular(),
    Triangular(0.7, 0.3),
]
# (decay, decay_input): IF, LIF, LIF that decays its input, and the same two with a learnt decay
NEURONS = [(1.0, False), (0.75, False), (0.75, True), ("learnt", False), ("learnt", True)]
HALF = [torch.bfloat16, torch.float16]


@pytest.fixture(scope="module", autouse=True)
def _no_fused_add_of_old_interpreters():
    """Let interpreters that round a fused multiply-add twice (Triton before 3.9) round it once."""
    if not INTERPRETED:
        yield
        return
    from triton.runtime import interpreter

    def fma(_self, x, y, z):
        exact = x.data.astype("float64") * y.data + z.data
        return interpreter.TensorHandle(exact.astype("float32"), z.dtype)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter.InterpreterBuilder, "create_fma", fma)
        yield


def _currents(steps, size, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    current = torch.randn(steps, *size, generator=generator) * 0.8 + 0.4
    return current.to(DEVICE, dtype)


def _decay(decay):
    return torch.tensor(0.6, device=DEVICE) if decay == "learnt" else decay


def _same_spikes(got, wanted):
    assert got.dtype == wanted.dtype
    assert got.shape == wanted.shape
    assert (got != wanted).float().mean().item() <= TIES


def _same_window(current, decay, dynamics):
    spikes, v = triton_kernel.forward(current, decay, dynamics)
    state = dynamics.fresh_state(current[0])
    wanted, last, _ = reference.forward(current, state, decay, dynamics, keep_membrane=False)
    _same_spikes(spikes, wanted)
    if INTERPRETED:
        assert torch.equal(v, last.v)


def _same_gradients(current, decay, dynamics, rtol=1e-5, atol=1e-5):
    generator = torch.Generator().manual_seed(1)
    above = torch.randn(current.shape, generator=generator).to(current)
    got, share = triton_kernel.backward(current, above, decay, dynamics, True)
    wanted, wanted_share = reference.backward_of_window(current, above, decay, dynamics, True)
    torch.testing.assert_close(got, wanted, rtol=rtol, atol=atol)
    scale = wanted.float().abs().sum().item() + 1.0
    assert abs(share.item() - wanted_share.item()) <= 1e-5 * scale


@pytest.mark.parametrize("steps", [1, 2, 4, 7, 32])
@pytest.mark.parametrize(("decay", "decay_input"), NEURONS)
def test_spikes_and_membranes(decay, decay_input, steps):
    sizes = SIZES if steps < 32 else [(301,)]
    for (size, v_reset), strict in zip(
        itertools.product(sizes, RESETS), itertools.cycle([False, True])
    ):
        dynamics = Dynamics(v_reset=v_reset, decay_input=decay_input, strict_threshold=strict)
        _same_window(_currents(steps, size), _decay(decay), dynamics)


def test_a_last_membrane_that_is_not_kept():
    current = _currents(4, (2057,))
    spikes, v = triton_kernel.forward(current, 0.75, Dynamics(), keep_last=False)
    assert v is None
    assert torch.equal(spikes, triton_kernel.forward(current, 0.75, Dynamics())[0])


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("v_reset", RESETS)
def test_exactly_at_the_threshold(v_reset, strict):
    current = torch.tensor([0.5, 0.5, 1.0, 0.25, 0.75, 1.5], device=DEVICE)[:, None]
    _same_window(current, 1.0, Dynamics(v_reset=v_reset, strict_threshold=strict))
    spikes, _ = triton_kernel.forward(current[:2], 1.0, Dynamics(strict_threshold=strict))
    assert spikes.flatten().tolist() == [0.0, 0.0 if strict else 1.0]


@pytest.mark.parametrize("v_reset", RESETS)
def test_after_an_infinite_membrane_all_is_nan(v_reset):
    current = _currents(4, (3,))
    current[1, :2] = torch.tensor([torch.inf, -torch.inf])
    spikes, v = triton_kernel.forward(current, 0.75, Dynamics(v_reset=v_reset))
    assert spikes[1:, :2].isnan().all()
    assert v[:2].isnan().all()
    assert spikes[:, 2].isfinite().all()


@pytest.mark.parametrize("surrogate", SURROGATES, ids=repr)
@pytest.mark.parametrize(("decay", "decay_input"), NEURONS)
def test_gradients(decay, decay_input, surrogate):
    shapes = itertools.cycle(zip([1, 7, 4, 2, 4], SIZES, strict=True))
    for (v_reset, detach), (steps, size) in zip(
        itertools.product(RESETS, (False, True)), shapes, strict=False
    ):
        dynamics = Dynamics(
            v_reset=v_reset, surrogate=surrogate, detach_reset=detach, decay_input=decay_input
        )
        _same_gradients(_currents(steps, size), _decay(decay), dynamics)


def test_the_longest_window():
    for surrogate, v_reset in zip(SURROGATES[::2], [*RESETS, 0.0], strict=True):
        dynamics = Dynamics(0.9, v_reset, surrogate=surrogate, decay_input=True)
        _same_gradients(_currents(triton_kernel.MAX_STEPS, (301,)), _decay("learnt"), dynamics)


@pytest.mark.parametrize(("decay", "decay_input"), NEURONS)
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half_precision_has_membranes_in_float32(dtype, decay, decay_input):
    for v_reset, surrogate in zip(RESETS, SURROGATES[::3], strict=True):
        dynamics = Dynamics(v_reset=v_reset, surrogate=surrogate, decay_input=decay_input)
        current = _currents(5, (1301,), dtype)
        _same_window(current, _decay(decay), dynamics)
        _same_gradients(current, _decay(decay), dynamics, torch.finfo(dtype).eps, 1e-4)


def test_other_constants():
    dynamics = Dynamics(0.7, -0.1, 0.3, decay_input=True, strict_threshold=True)
    _same_window(_currents(6, (500,)), 0.9, dynamics)
    _same_gradients(_currents(6, (500,)), 0.9, dynamics)
    integers = Dynamics(1, 0, 0, ATan(2))  # a user's numbers need not be floats
    _same_window(_currents(4, (500,)), 1.0, integers)
    _same_gradients(_currents(4, (500,)), 1.0, integers)


@pytest.mark.parametrize("v_reset", RESETS)
def test_a_state_goes_on(v_reset):
    dynamics = Dynamics(v_reset=v_reset)
    current = _currents(8, (3, 5))
    with using("triton"):
        whole, last = scan(current, dynamics, 0.75)
        first, state = scan(current[:3], dynamics, 0.75)
        rest, end = scan(current[3:], dynamics, 0.75, state)
    assert torch.equal(torch.cat([first, rest]), whole)
    assert torch.equal(end.v, last.v)


@pytest.mark.parametrize("learnt", [False, True])
def test_through_the_operators(learnt):
    dynamics = Dynamics(decay_input=True)
    found = {}
    for kernel in ("triton", "reference"):
        current = _currents(4, (2, 3, 5, 7)).requires_grad_()
        decay = torch.tensor(0.75, device=DEVICE, requires_grad=True) if learnt else 0.75
        with using(kernel):
            window(current, dynamics, decay).square().sum().backward()
        found[kernel] = [current.grad, decay.grad] if learnt else [current.grad]
    for got, wanted in zip(found["triton"], found["reference"], strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def _layouts(current):
    return {
        "channels-last": current.contiguous(memory_format=torch.channels_last_3d),
        "images channels-last": current.movedim(2, -1).contiguous().movedim(-1, 2),
        "a slice": torch.cat([current, current], -1)[..., : current.shape[-1]],
        "time last": current.movedim(0, -1).contiguous().movedim(-1, 0),
        "one image for all": current[:, :1].expand_as(current),
    }


@pytest.mark.parametrize("name", list(_layouts(torch.zeros(1, 1, 1, 1, 1))))
def test_layouts(name):
    current = _layouts(_currents(4, (2, 3, 5, 7)))[name]
    _same_window(current, 1.0, Dynamics())
    _same_gradients(current, 1.0, Dynamics())
    with using("triton"):
        assert window(current, Dynamics()).stride() == torch.empty_like(current).stride()


def test_a_gradient_of_another_layout_and_dtype():
    current = _currents(4, (2, 3, 5, 7))
    above = torch.ones((), device=DEVICE, dtype=torch.bfloat16).expand_as(current)
    got, _ = triton_kernel.backward(current, above, 1.0, Dynamics(), False)
    wanted, _ = reference.backward_of_window(current, above, 1.0, Dynamics(), False)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_nobody_there():
    current = _currents(4, (0, 3))
    spikes, v = triton_kernel.forward(current, 1.0, Dynamics())
    assert spikes.shape == (4, 0, 3)
    assert v.shape == (0, 3)
    grad, share = triton_kernel.backward(current, spikes, _decay("learnt"), Dynamics(), True)
    assert grad.shape == (4, 0, 3)
    assert share.item() == 0.0


def test_it_is_chosen():
    current = _currents(4, (3,))
    with using("triton"):
        assert kernel_for(current, Dynamics()) == "triton"
    if not INTERPRETED:
        assert kernel_for(current, Dynamics()) == "triton"
