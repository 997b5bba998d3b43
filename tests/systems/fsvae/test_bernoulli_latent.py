"""Autoregressive Bernoulli spike sampling: one pass is what the growing prefixes are."""

from functools import partial

import pytest
import torch

from spikediff.neurons import LIF
from spikediff.systems.fsvae.latent import (
    BernoulliLatent,
    delayed,
    draw_choices,
    pick,
    roll_out,
    roll_out_prefixes,
)

T, C, E, K = 7, 6, 4, 5
NEURON = partial(LIF, v_threshold=0.2, decay=0.25, decay_input=False, strict_threshold=True)


@pytest.fixture(params=[0, E], ids=["prior", "posterior"])
def network(request):
    """A network with statistics of its own, in float64 so that no spike hangs on a rounding."""
    torch.manual_seed(3)
    network = BernoulliLatent(C, request.param, K, NEURON)
    for layer in network.layers:
        layer.norm.running_mean.normal_(std=0.2)
        layer.norm.running_var.uniform_(0.5, 2.0)
        layer.norm.bias.data.normal_(std=0.2)
    return network.double().eval()


def setting(network, images):
    """A rule that picks drawn candidates, z before the first step, T, and a context."""
    choice = draw_choices((T, images, C), K, torch.Generator().manual_seed(images))
    has_context = network.layers[0].synapse.in_features > C
    context = (torch.rand(T, images, E) < 0.4).double() if has_context else None
    rule = lambda n, look: pick(look(), choice[n])  # noqa: E731
    return rule, torch.zeros(images, C, dtype=torch.float64), T, context


@pytest.mark.parametrize("images", [1, 2, 5])
def test_one_pass_equals_growing_prefixes(network, images):
    arguments = setting(network, images)
    z, _ = roll_out(network, *arguments)
    assert torch.equal(z, roll_out_prefixes(network, *arguments))
    assert 0.05 < z.mean() < 0.95


def test_one_pass_equals_the_window_of_what_it_drew(network):
    rule, start, steps, context = setting(network, 3)
    z, candidates = roll_out(network, rule, start, steps, context)
    assert torch.equal(candidates, network(delayed(z), context))
    assert z.shape == (T, 3, C)
    assert candidates.shape == (T, 3, C, K)


def test_a_latent_depends_on_those_before_it_alone(network):
    rule, start, steps, context = setting(network, 3)
    z, _ = roll_out(network, rule, start, steps, context)
    other, _ = roll_out(
        network, lambda n, _: rule(n, _) if n != 3 else start + 1, *[start, T, context]
    )
    assert torch.equal(z[:3], other[:3])
    assert not torch.equal(z[4:], other[4:])


def test_in_training_one_pass_leaves_no_trace(network):
    arguments = setting(network, 3)
    want, _ = roll_out(network, *arguments)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    got, _ = roll_out(network.train(), *arguments)
    assert torch.equal(got, want)
    assert network.training
    assert network.layers[0].norm.training
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[key]), key


def test_in_training_every_prefix_leaves_its_statistics(network):
    roll_out_prefixes(network.train(), *setting(network, 3))
    assert {layer.norm.num_batches_tracked.item() for layer in network.layers} == {T}


def test_the_probability_of_a_spike_is_the_share_of_its_candidates():
    candidates = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0]).expand(20000, 1, 5)
    choice = draw_choices((1, 20000, 1), 5, torch.Generator().manual_seed(0))[0]
    assert pick(candidates, choice).mean().item() == pytest.approx(0.4, abs=0.015)


def test_candidates_of_a_unit_stand_side_by_side():
    """Output c * k + j is candidate j of unit c, as in the authors' weights."""
    network = BernoulliLatent(2, 0, 3, NEURON).eval()
    network.layers[2].norm.bias.data = torch.tensor([1.0, 0, 0, 0, 1, 1]) - 0.5
    network.layers[2].norm.weight.data.zero_()
    assert network(torch.zeros(1, 1, 2))[0, 0].tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]
