"""The integer neuron: counts, their straight-through gradient, and their unrolled spikes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from spikediff.errors import UserError
from spikediff.native import native
from spikediff.neurons import IntegerNeuron, count_spikes, unroll
from spikediff.neurons.kernels import using


def layer(levels=4, per_channel=True, seed=0):
    torch.manual_seed(seed)
    neuron = IntegerNeuron(3, levels, per_channel).double()
    torch.nn.init.normal_(neuron.log_theta, -0.5, 0.4)
    torch.nn.init.normal_(neuron.bias, 0.0, 0.5)
    return neuron


@given(st.integers(1, 20), st.integers(0, 1000))
def test_counts_are_the_equation(levels, seed):
    neuron = layer(levels, seed=seed)
    v = 3 * torch.randn(2, 3, 4, 5, dtype=torch.double)
    level = v / neuron.theta.view(-1, 1, 1) + neuron.bias.view(-1, 1, 1)
    assert torch.equal(neuron(v), level.round().clamp(0, levels))


@pytest.mark.parametrize("per_channel", [True, False])
def test_the_gradient_is_that_of_a_clip_with_rounding_passed_through(per_channel):
    neuron = layer(per_channel=per_channel)
    v = (3 * torch.randn(2, 3, 4, 5, dtype=torch.double)).requires_grad_()
    weights = torch.randn(2, 3, 4, 5, dtype=torch.double)
    inputs = (v, neuron.log_theta, neuron.bias)
    ours = torch.autograd.grad((neuron(v) * weights).sum(), inputs)
    level = v / neuron.theta.view(-1, 1, 1) + neuron.bias.view(-1, 1, 1)
    clipped = level.clamp(0, 4)
    through = clipped + (clipped.round() - clipped).detach()
    theirs = torch.autograd.grad((through * weights).sum(), inputs)
    for ours_, theirs_ in zip(ours, theirs, strict=True):
        torch.testing.assert_close(ours_, theirs_)


@given(st.integers(1, 20), st.integers(0, 1000))
def test_unrolled_spikes_are_binary_and_add_up(levels, seed):
    counts = torch.randint(0, levels + 1, (2, 3, 4), generator=torch.Generator().manual_seed(seed))
    spikes = unroll(counts, levels)
    assert len(spikes) == levels
    assert set(spikes.unique().tolist()) <= {0, 1}
    assert torch.equal(spikes.sum(0), counts)


def test_a_trace_fires_as_often_as_the_count_says():
    neuron = IntegerNeuron(1, levels=4)
    nn.init.zeros_(neuron.log_theta)
    v = torch.tensor([-9.0, 0.5, 1.5, 2.5, 3.5, 2.2, 9.0])
    trace = neuron.trace(v.view(1, 1, 1, -1), torch.arange(len(v)))
    assert neuron(v.view(1, 1, 1, -1)).flatten().tolist() == [0, 0, 2, 2, 4, 2, 4]
    assert (trace.u >= trace.v_threshold).sum(0).tolist() == [0, 0, 2, 2, 4, 2, 4]


def test_the_amplitude_joins_the_weights_behind():
    neuron = layer()
    weight, counts = torch.randn(5, 3, 3, 3).double(), neuron(torch.randn(2, 3, 6, 6).double())
    amplified = torch.nn.functional.conv2d(counts * neuron.theta.view(-1, 1, 1), weight)
    folded = torch.nn.functional.conv2d(counts, neuron.fold_amplitude(weight))
    torch.testing.assert_close(amplified, folded)


@given(
    seed=st.integers(0, 1000),
    size=st.tuples(*[st.integers(1, 17)] * 4),
    levels=st.integers(1, 127),
    last=st.booleans(),
    per_channel=st.booleans(),
)
@pytest.mark.skipif(native() is None, reason="the compiled kernels are not there")
def test_the_c_kernel_is_plain_torch(seed, size, levels, last, per_channel):
    torch.manual_seed(seed)
    neuron = IntegerNeuron(size[1], levels, per_channel)
    torch.nn.init.normal_(neuron.bias, 0.0, 0.5)
    v, weights = 3 * torch.randn(size), torch.randn(size)
    v = v.contiguous(memory_format=torch.channels_last) if last else v

    def run(kernel):
        given_to = v.clone().requires_grad_()
        with using(kernel):
            counts = neuron(given_to)
            inputs = (given_to, neuron.log_theta, neuron.bias)
            return counts, *torch.autograd.grad((counts * weights).sum(), inputs)

    (counts, grad_v, *ours), (wanted, wanted_v, *theirs) = run("native"), run("reference")
    assert torch.equal(counts, wanted)
    assert torch.equal(grad_v, wanted_v)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-3)


def test_threads_change_no_gradient():
    neuron = IntegerNeuron(16, 4)
    v = torch.randn(8, 16, 14, 14)

    def gradients():
        return torch.autograd.grad(neuron(v).square().sum(), neuron.parameters())

    one = gradients()
    try:
        torch.set_num_threads(2)
        assert all(map(torch.equal, gradients(), one))
    finally:
        torch.set_num_threads(1)


def test_fewer_than_one_level_is_refused():
    with pytest.raises(UserError, match="levels = 0"):
        IntegerNeuron(3, 0)


def test_low_precision_gives_whole_counts():
    v = torch.randn(2, 3, 4, 5).bfloat16()
    counts = count_spikes(v, torch.ones(3).bfloat16(), torch.zeros(3).bfloat16(), 4)
    assert counts.dtype == torch.bfloat16
    assert torch.equal(counts, counts.round())
