"""Threshold-dependent batch norm: its equation, and batch norm's own buffers."""

import torch
from torch import nn

from spikediff.layers import ThresholdNorm


def test_is_batch_norm_with_a_scaled_gain():
    torch.manual_seed(0)
    x, ours, theirs = torch.randn(6, 3, 4, 4), ThresholdNorm(3, 0.5, 0.4), nn.BatchNorm2d(3)
    for norm in (ours, theirs):
        norm.weight.data = torch.tensor([1.0, 2.0, -1.0])
        norm.bias.data = torch.tensor([0.1, 0.0, 0.3])
    for _ in range(3):  # training moves the running statistics alike
        want = 0.5 * 0.4 * (theirs(x) - theirs.bias.view(-1, 1, 1)) + theirs.bias.view(-1, 1, 1)
        torch.testing.assert_close(ours(x), want)
    for name, buffer in theirs.named_buffers():
        assert torch.equal(ours.get_buffer(name), buffer), name
    want = 0.2 * (theirs.eval()(x) - theirs.bias.view(-1, 1, 1)) + theirs.bias.view(-1, 1, 1)
    torch.testing.assert_close(ours.eval()(x), want)


def test_currents_have_the_size_of_the_threshold():
    x = 7 * torch.randn(2000, 2, 1, 1) + 3
    y = ThresholdNorm(2, v_threshold=0.2)(x)
    torch.testing.assert_close(y.std((0, 2, 3), unbiased=False), torch.full((2,), 0.2))
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(2), atol=1e-6, rtol=0)


def test_takes_vectors_too():
    assert ThresholdNorm(3)(torch.randn(5, 3)).shape == (5, 3)
