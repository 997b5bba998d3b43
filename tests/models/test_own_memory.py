"""Weights that were loaded lie where torch puts a tensor, not where a file had them."""

import torch
from torch import nn

from spikediff.models.own_memory import with_own_memory


def test_weights_out_of_the_middle_of_a_file():
    file = torch.randn(1 + 12 * 64)
    layer = nn.Linear(12, 64)
    layer.weight.data = file[1:].view(64, 12)
    model = with_own_memory(nn.Sequential(layer), {})
    assert torch.equal(layer.weight, file[1:].view(64, 12))
    assert layer.weight.untyped_storage().nbytes() == 4 * 12 * 64
    assert layer.weight.data_ptr() % 64 == 0
    assert model[0] is layer
    assert with_own_memory((model, {}), {})[0] is model


def test_the_type_that_was_asked_for():
    model = nn.BatchNorm1d(2)
    half = with_own_memory(model, {"torch_dtype": torch.float16})
    assert half.running_mean.dtype == half.weight.dtype == torch.float16
    assert half.num_batches_tracked.dtype == torch.int64
