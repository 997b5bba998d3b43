"""Weights that were loaded lie where torch puts a tensor, not where a file had them."""

import torch
from torch import nn

from spikediff.models.own_memory import with_own_memory


def test_weights_out_of_the_middle_of_a_file():
    file = torch.randn(1 + 12 * 64)
    layer = nn.Linear(12, 64)
    layer.weight.data = file[1:].view(64, 12)
    model = with_own_memory(nn.Sequential(layer))
    assert torch.equal(layer.weight, file[1:].view(64, 12))
    assert layer.weight.untyped_storage().nbytes() == 4 * 12 * 64
    assert layer.weight.data_ptr() % 64 == 0
    assert model[0] is layer
    assert with_own_memory((model, {}))[0] is model
