"""Laws of the layers."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from spikediff.layers import ConvNorm, fold_time, nearest_upsample, over_time, unfold_time
from spikediff.layers.embeddings import TimestepEmbedding, sinusoidal_embedding


@given(st.integers(1, 5), st.integers(1, 4))
def test_unfolding_undoes_folding(steps, batch):
    x = torch.randn(steps, batch, 3, 2, 2)
    assert torch.equal(unfold_time(fold_time(x), steps), x)


def test_a_layer_over_time_is_the_layer_at_every_step():
    conv, x = torch.nn.Conv2d(3, 5, 3), torch.randn(4, 2, 3, 6, 6)
    want = torch.stack([conv(step) for step in x])
    torch.testing.assert_close(over_time(conv, x), want)


def test_batch_norm_is_joint_over_time_and_batch():
    layer, x = ConvNorm(3, 5), torch.randn(4, 2, 3, 6, 6)
    out = layer(x)
    torch.testing.assert_close(out.mean((0, 1, 3, 4)), torch.zeros(5), atol=1e-5, rtol=0)
    assert out.mean((1, 3, 4)).abs().max() > 1e-3  # a single step is not centred


def test_spikes_stay_spikes_when_they_are_repeated():
    x = (torch.rand(4, 2, 3, 4, 4) > 0.5).float()
    up = nearest_upsample(x)
    assert up.shape == (4, 2, 3, 8, 8)
    assert torch.equal(up[..., ::2, ::2], x)
    assert up.sum() == 4 * x.sum()


def test_timestep_table_equals_the_formula():
    embedding = TimestepEmbedding(16, 32, 1000)
    whole, fractional = torch.tensor([0, 7, 999]), torch.tensor([0.0, 7.0, 999.0])
    torch.testing.assert_close(embedding(whole), embedding(fractional))
    assert not embedding.table.requires_grad
    between = sinusoidal_embedding(torch.tensor([7.5]), 16)
    assert between.abs().max() <= 1.0
