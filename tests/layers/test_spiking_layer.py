"""Synapse, threshold-dependent norm, neuron; and norms that are left as they were."""

from functools import partial

import torch
from torch import nn

from spikediff.layers import running_statistics, threshold_layer
from spikediff.neurons import IF, LIF

NEURON = partial(LIF, v_threshold=0.3, decay=0.7, decay_input=False)


def random_norm(layer):
    for tensor in (layer.norm.weight.data, layer.norm.running_var):
        tensor.uniform_(0.5, 1.5)
    layer.norm.bias.data.normal_(std=0.2)
    layer.norm.running_mean.normal_()
    return layer.double().eval()


def test_the_norm_knows_the_threshold_of_the_neuron():
    layer = threshold_layer(nn.Identity(), 1, lambda: IF(v_threshold=0.5), alpha=2.0)
    assert layer.norm.gain.item() == 1.0
    current = torch.tensor([-1.0, 1.0]).view(2, 1, 1)  # mean 0, variance 1: the gain is what comes
    assert layer(current).flatten().tolist() == [0.0, 0.0]  # -1, then -1 + 1
    assert layer(current.flip(0)).flatten().tolist() == [1.0, 0.0]


def test_a_window_in_parts_is_the_window():
    torch.manual_seed(0)
    layer = random_norm(threshold_layer(nn.Linear(6, 4), 4, NEURON))
    x = torch.randn(9, 3, 6, dtype=torch.float64)
    memory = {}
    parts = [layer(part, memory) for part in x.split([1, 3, 5])]
    assert torch.equal(torch.cat(parts), layer(x))
    assert 0 < layer(x).mean() < 1


def test_modes_and_statistics_come_back():
    network = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    network[1].eval()
    with running_statistics(network):
        network(torch.randn(5, 2))
    assert [module.training for module in network.modules()] == [True, True, False]
    assert network[0].num_batches_tracked.item() == 0
