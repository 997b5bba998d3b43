"""Convolutions that are trained by events, against torch's."""

import pytest
import torch
from torch import nn

from spikediff.events import train_event_driven
from spikediff.native import native

pytestmark = pytest.mark.skipif(native() is None, reason="the C kernels are not built")

GEOMETRIES = [  # in, out, kernel, stride, padding, dilation
    (64, 48, 3, 1, 1, 1),
    (40, 33, 3, 2, 1, 1),
    (128, 16, 1, 1, 0, 2),
    (96, 64, 5, 2, 2, 1),
    (70, 7, 3, 1, 2, 2),
]


def _step(conv, x, grad):
    x = x.clone().requires_grad_()
    conv.zero_grad()
    y = conv(x)
    y.backward(grad)
    return y, x.grad, conv.weight.grad.clone(), conv.bias.grad.clone()


def _pair(geometry):
    channels, out, kernel, stride, padding, dilation = geometry
    torch.manual_seed(0)
    dense = nn.Conv2d(channels, out, kernel, stride, padding, dilation)
    sparse = nn.Sequential(nn.Conv2d(channels, out, kernel, stride, padding, dilation)).train()
    sparse[0].load_state_dict(dense.state_dict())
    return dense, sparse


@pytest.mark.parametrize("steps", [1, 3, 4, 6])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_currents_and_all_gradients_are_torchs(geometry, steps):
    dense, sparse = _pair(geometry)
    x = (torch.rand(2 * steps, geometry[0], 9, 7) < 0.15).float()
    grad = torch.randn_like(dense(x))
    expected = _step(dense.double(), x.double(), grad.double())
    train_event_driven(sparse, spiking_steps=steps)
    got = _step(sparse[0], x, grad)
    assert type(sparse(x).grad_fn).__name__ == "_SpikeConvolutionBackward"
    for a, b in zip(got, expected, strict=True):
        scale = b.abs().max()
        torch.testing.assert_close(a.double(), b, rtol=0, atol=2e-6 * scale.item())


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_do_not_change_the_weight_gradient(threads):
    _, sparse = _pair(GEOMETRIES[0])
    x = (torch.rand(8, 64, 16, 16) < 0.2).float()
    train_event_driven(sparse, spiking_steps=4)
    grad = torch.randn(8, 48, 16, 16)
    before = torch.get_num_threads()
    results = []
    for count in (1, threads):
        torch.set_num_threads(count)
        results.append(_step(sparse[0], x, grad)[2])
    torch.set_num_threads(before)
    assert torch.equal(*results)


@pytest.mark.parametrize("case", ["currents", "busy", "evaluation", "float64", "odd batch"])
def test_what_does_not_suit_goes_the_usual_way(case):
    _, sparse = _pair(GEOMETRIES[0])
    x = (torch.rand(8, 64, 9, 7) < (0.9 if case == "busy" else 0.2)).float()
    if case == "currents":
        x[0, 0, 0, 0] = 0.5
    if case == "odd batch":
        x = x[:7]
    dense = nn.Conv2d(64, 48, 3, padding=1)
    dense.load_state_dict(sparse[0].state_dict())
    train_event_driven(sparse, spiking_steps=2 if case == "busy" else 4)
    if case == "evaluation":
        sparse.eval()
    if case == "float64":
        sparse, dense, x = sparse.double(), dense.double(), x.double()
    y = sparse(x)
    assert type(y.grad_fn).__name__ != "_SpikeConvolutionBackward"
    assert torch.equal(y, dense(x))


def test_only_bits_and_weights_are_kept():
    _, sparse = _pair(GEOMETRIES[0])
    train_event_driven(sparse, spiking_steps=4)
    x = (torch.rand(8, 64, 16, 16) < 0.2).float()
    kept = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t)
    with hooks:
        sparse(x)
    sizes = [t.nbytes for t in kept if not isinstance(t, nn.Parameter)]
    assert sizes == [x.nbytes // 32]


def test_without_kernels_the_convolutions_stay(monkeypatch):
    monkeypatch.setattr("spikediff.events.training.native", lambda: None)
    model = nn.Sequential(nn.Conv2d(64, 64, 3))
    train_event_driven(model, 4)
    assert type(model[0]) is nn.Conv2d
