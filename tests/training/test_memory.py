"""Activations as bits: the same gradients, a fraction of the bytes."""

import pytest
import torch
from torch.nn.functional import conv2d

from spikediff.layers import SpikingLayer
from spikediff.native import native
from spikediff.neurons import LIF
from spikediff.training.computation import _Bits, _pack, _unpack, compressed_activations

needs_native = pytest.mark.skipif(native() is None, reason="the C kernels are not built")


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("one", [1.0, 1.25, -2.0])
@pytest.mark.parametrize("layout", ["plain", "channels_last", "transposed"])
def test_two_values_come_back_bit_for_bit(dtype, one, layout):
    x = torch.where(torch.rand(4, 37, 9, 11) < 0.3, one, 0.0).to(dtype)
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        x = x.transpose(0, 3)
    saved = _pack(x)
    assert isinstance(saved, _Bits)
    assert saved.words.numel() * 8 <= x.numel() / 8 + 8
    back = _unpack(saved)
    assert back.dtype == x.dtype
    assert back.stride() == x.stride()
    assert torch.equal(back, x)


@needs_native
@pytest.mark.parametrize("at", [0, 4095, 65536 + 70, -1])
def test_a_third_value_anywhere_is_kept_as_it_is(at):
    x = (torch.rand(200_000) < 0.3).float()
    x[at] = 0.5
    assert _pack(x) is x


@needs_native
def test_all_zeros_and_all_ones():
    for x in (torch.zeros(5000), torch.ones(5000)):
        assert torch.equal(_unpack(_pack(x)), x)


@needs_native
def test_what_has_holes_or_is_a_weight_is_kept_as_it_is():
    zeros = torch.zeros(200, 200)
    for x in (zeros[:, ::2], torch.zeros(1, 200).expand(200, 200), torch.nn.Parameter(zeros)):
        assert _pack(x) is x


@needs_native
def test_gradients_are_those_without_it_bit_for_bit():
    torch.manual_seed(0)
    layers = [
        SpikingLayer(torch.nn.Conv2d(8, 8, 3, padding=1), torch.nn.BatchNorm2d(8), LIF())
        for _ in range(2)
    ]
    x = (torch.rand(4, 4, 8, 16, 16) < 0.3).float()
    results = []
    for context in (
        torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t),
        compressed_activations(),
    ):
        weights = [p for layer in layers for p in layer.parameters()]
        with context:
            out = layers[1](layers[0](x))
        results.append(torch.autograd.grad(out.square().sum(), weights))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@needs_native
def test_a_layer_of_convolution_norm_and_neuron_keeps_little_more_than_one_window():
    """Issue 7's target: 1.2 tensors a layer, where SpikingJelly's eager layers keep 4.75."""
    kept = []

    def pack(x):
        saved = _pack(x)
        kept.append(saved.words.nbytes if isinstance(saved, _Bits) else _bytes(x))
        return saved

    def _bytes(x):
        return 0 if isinstance(x, torch.nn.Parameter) else x.nbytes

    layer = SpikingLayer(torch.nn.Conv2d(16, 16, 3, padding=1), torch.nn.BatchNorm2d(16), LIF())
    x = (torch.rand(4, 8, 16, 16, 16) < 0.2).float().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, _unpack):
        layer(x).sum().backward()
    assert sum(kept) <= 1.2 * x.nbytes


def test_without_kernels_nothing_changes(monkeypatch):
    monkeypatch.setattr("spikediff.native.library.native", lambda: None)
    x, weight = torch.zeros(1, 8, 32, 32), torch.randn(8, 8, 3, 3, requires_grad=True)
    with compressed_activations():
        y = conv2d(x, weight)
    y.sum().backward()
    assert weight.grad is not None
