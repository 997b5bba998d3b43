"""Laws of temporal scaling (TSM)."""

import pytest
import torch
from torch import nn

from spikediff.errors import UserError
from spikediff.layers import ConvNorm, fold_time, unfold_time
from spikediff.layers.temporal_scaling import TemporalScaling, scaling_factors


def with_factors(*factors):
    layer = TemporalScaling(len(factors))
    layer.p.data.copy_(torch.tensor(factors).view(-1, 1, 1, 1, 1))
    return layer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_fresh_layer_changes_no_bit(dtype):
    current = torch.randn(4, 2, 3, 5, 5).to(dtype)
    assert torch.equal(TemporalScaling(4)(current), current)


def test_every_step_has_its_own_factor():
    current = torch.randn(3, 2, 4, 5, 5)
    scaled = with_factors(0.5, 1.0, -2.0)(current)
    assert torch.equal(scaled, torch.stack([0.5 * current[0], current[1], -2 * current[2]]))


def test_gradient_of_a_factor_is_the_current_along_the_gradient_of_the_result():
    layer, current = with_factors(0.7, 1.3), torch.randn(2, 3, 4, 5, 5, dtype=torch.float64)
    upstream = torch.randn_like(current)
    layer.double()(current).backward(upstream)
    torch.testing.assert_close(layer.p.grad.flatten(), (current * upstream).flatten(1).sum(1))


def test_it_scales_the_bias_too_and_stands_before_the_norm():
    torch.manual_seed(0)
    x, layer = torch.randn(2, 3, 4, 6, 6), ConvNorm(4, 5, scaling=lambda: with_factors(0.5, 2.0))
    by_hand = unfold_time(layer.conv(fold_time(x)), 2) * torch.tensor([0.5, 2.0]).view(
        2, 1, 1, 1, 1
    )
    want = (by_hand - by_hand.mean((0, 1, 3, 4), keepdim=True)) / (
        by_hand.var((0, 1, 3, 4), correction=0, keepdim=True) + 1e-5
    ).sqrt()
    assert layer.conv.bias.abs().max() > 0.01
    torch.testing.assert_close(layer(x), want)


def test_half_precision_is_left_only_after_the_product():
    """A factor near 1 is no bfloat16: rounded first, it would do nothing at all."""
    current = torch.full((1, 1, 1, 1, 1), 1.4921875, dtype=torch.bfloat16)
    scaled = with_factors(1.0035)(current)
    assert scaled.dtype == torch.bfloat16
    assert scaled.item() == 1.5
    assert torch.tensor(1.0035).bfloat16() == 1.0


def test_another_window_is_refused():
    with pytest.raises(UserError, match="T = 4 spiking steps, got a window of 8"):
        TemporalScaling(4)(torch.zeros(8, 1, 1, 1, 1))


def test_factors_by_layer():
    model = nn.ModuleDict(
        {"a": ConvNorm(1, 1), "b": ConvNorm(1, 1, scaling=lambda: with_factors(2.0))}
    )
    assert {name: p.tolist() for name, p in scaling_factors(model).items()} == {"b": [2.0]}
