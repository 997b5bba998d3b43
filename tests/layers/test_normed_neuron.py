"""Norm and neuron as one node: the same numbers, one tensor kept instead of two."""

import copy

import pytest
import torch
from torch import nn

from spikediff.layers import ThresholdNorm, over_time
from spikediff.layers.normed_neuron import fire_normed
from spikediff.neurons import IF, LIF

SHAPE = (4, 3, 5, 6, 6)
NEURONS = [IF(), LIF(tau=3.0, v_reset=None), LIF(surrogate="sigmoid", strict_threshold=True)]
NORMS = [nn.BatchNorm2d(5), ThresholdNorm(5, alpha=0.7, v_threshold=0.5)]


def _run(neuron, norm, x, bias, grad, together):
    """Spikes, gradients of current, weight, offset and bias, and the norm's statistics."""
    norm = copy.deepcopy(norm).train()
    x = x.clone().requires_grad_()
    bias = None if bias is None else bias.clone().requires_grad_()
    if together:
        spikes = fire_normed(neuron, norm, x, bias)
    else:
        normed = over_time(norm, x)
        spikes = neuron(normed if bias is None else normed + bias)
    spikes.backward(grad)
    grads = [x.grad, norm.weight.grad, norm.bias.grad] + ([] if bias is None else [bias.grad])
    return spikes, grads, [norm.running_mean, norm.running_var, norm.num_batches_tracked]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("norm", NORMS, ids=lambda n: type(n).__name__)
@pytest.mark.parametrize("neuron", NEURONS, ids=repr)
def test_one_node_is_two_layers_bit_for_bit(neuron, norm, with_bias, dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SHAPE, generator=generator, dtype=dtype)
    grad = torch.randn(SHAPE, generator=generator, dtype=dtype)
    bias = torch.randn(3, 5, 1, 1, generator=generator, dtype=dtype) if with_bias else None
    norm = copy.deepcopy(norm).to(dtype)
    norm.weight.data.uniform_(3.0, 6.0, generator=generator)
    one = _run(neuron, norm, x, bias, grad, together=True)
    two = _run(neuron, norm, x, bias, grad, together=False)
    assert 0.01 < one[0].mean() < 0.99
    assert torch.equal(one[0], two[0])
    for a, b in zip(one[1], two[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(one[2], two[2], strict=True))


def _kept(run) -> list[torch.Size]:
    shapes = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: (shapes.append(x.shape), x)[1], lambda x: x
    ):
        run()
    return shapes


def test_it_keeps_one_window_where_two_layers_keep_two():
    norm, neuron = nn.BatchNorm2d(5).train(), IF()
    x = torch.randn(SHAPE, requires_grad=True)
    images = torch.Size((12, *SHAPE[2:]))
    together = _kept(lambda: fire_normed(neuron, norm, x))
    apart = _kept(lambda: neuron(over_time(norm, x)))
    assert sum(shape in (x.shape, images) for shape in together) == 1
    assert sum(shape in (x.shape, images) for shape in apart) == 2


def test_an_instrument_on_either_module_still_sees_its_call():
    x = torch.randn(SHAPE, requires_grad=True)
    for observed in ("norm", "neuron"):
        modules = {"norm": nn.BatchNorm2d(5).train(), "neuron": IF()}
        seen = []
        modules[observed].register_forward_hook(lambda *_, seen=seen: seen.append(1))
        fire_normed(modules["neuron"], modules["norm"], x)
        assert seen == [1]


def test_a_subclass_keeps_its_own_window():
    class Silent(LIF):
        def window(self, current):
            return 0 * current

    x = 5 * torch.randn(SHAPE, requires_grad=True)
    assert not fire_normed(Silent(), nn.BatchNorm2d(5).train(), x).any()


def test_in_evaluation_and_in_a_stream_the_layers_are_called():
    norm, neuron, x = nn.BatchNorm2d(5).eval(), IF(), torch.randn(SHAPE)
    assert torch.equal(fire_normed(neuron, norm, x), neuron(over_time(norm, x)))
    memory = {}
    fire_normed(neuron, norm, x, memory=memory)
    assert list(memory) == [neuron]
