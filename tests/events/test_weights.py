"""Weights of 16 and 8 bits: whole numbers that are summed exactly, and a stated rounding."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, conv_transpose2d, interpolate

from sizes import U_NET
from spikediff.errors import UserError
from spikediff.events import (
    EventConv2d,
    PackedNeuron,
    compile_for_inference,
    pack,
    quantise,
    weights,
)
from spikediff.events import compile as compiling
from spikediff.native import native
from spikediff.systems.sddpm.network import SpikingUNet

needs_native = pytest.mark.skipif(native() is None, reason="the C kernels are not built")
LARGEST = {"int8": 127, "int16": 32767}
PRECISIONS = list(LARGEST)

CONVOLUTIONS = {
    "3x3": lambda: nn.Conv2d(70, 130, 3, padding=1),
    "1x1": lambda: nn.Conv2d(65, 33, 1),
    "stride": lambda: nn.Conv2d(20, 64, 3, stride=2, padding=1),
    "dilation": lambda: nn.Conv2d(20, 65, 3, dilation=2, padding=2),
    "oblong": lambda: nn.Conv2d(3, 1, (1, 4), padding=(0, 2)),
    "transposed": lambda: nn.ConvTranspose2d(20, 40, 4, stride=2, padding=1),
}


def random_spikes(*shape, rate=0.3, seed=0):
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < rate).float()


def whole(conv, largest):
    """Give a convolution whole weights that use the whole range, so that its scale is 1."""
    axis = 1 if isinstance(conv, nn.ConvTranspose2d) else 0
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randint(-largest, largest + 1, conv.weight.shape, generator=generator).float()
    drawn.movedim(axis, 0).flatten(1)[:, 0] = largest  # a view, so that it is written through
    drawn.movedim(axis, 0)[:, 0, 0, 0] = largest
    conv.weight.data, conv.bias.data = drawn, torch.round(100 * conv.bias.detach())
    return conv.requires_grad_(False)


@needs_native
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", CONVOLUTIONS)
@torch.no_grad()
def test_whole_weights_are_summed_exactly(kind, precision):
    torch.manual_seed(0)
    conv = whole(CONVOLUTIONS[kind](), LARGEST[precision])
    spikes = random_spikes(6, 2, conv.in_channels, 7, 6, rate=0.1)
    want = conv.double()(spikes.flatten(0, 1).double())
    assert want.abs().max() < 2**24, "a float32 has every such number"
    got = EventConv2d(conv.float(), precision)(pack(spikes).flatten(0, 1))
    assert got.dtype == torch.float32
    assert torch.equal(got.double(), want)


@needs_native
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_do_not_overflow(precision, sign):
    """2,025 rows of one pattern, each as large as it can be."""
    conv = nn.Conv2d(225, 3, 3, padding=1, bias=False).requires_grad_(False)
    conv.weight.fill_(sign * LARGEST[precision])
    spikes = pack(torch.ones(4, 1, 225, 3, 3)).flatten(0, 1)
    centre = EventConv2d(conv, precision)(spikes)[:, :, 1, 1]
    want = sign * 9 * 225 * LARGEST[precision]
    torch.testing.assert_close(centre, torch.full_like(centre, want), rtol=2**-23, atol=0)


@needs_native
@pytest.mark.parametrize("precision", PRECISIONS)
@torch.no_grad()
def test_a_current_is_off_by_half_a_step_for_each_input_that_fires(precision):
    torch.manual_seed(2)
    conv, spikes = nn.Conv2d(40, 24, 3, padding=1), random_spikes(4, 2, 40, 6, 6)
    _, scales = quantise(conv.weight, 16 if precision == "int16" else 8)
    folded = spikes.flatten(0, 1).double()
    fired = conv2d(folded, torch.ones(1, 40, 3, 3).double(), padding=1)
    got = EventConv2d(conv, precision)(pack(spikes).flatten(0, 1))
    off = (got - conv.double()(folded)).abs()
    bound = fired * scales.double().view(1, -1, 1, 1) / 2
    rounding = 1e-6 * got.abs().max()
    assert (off <= bound + rounding).all()
    assert off.max() > 0.02 * bound.max(), "a bound that nothing comes near says little"


def test_each_output_channel_has_its_own_scale():
    weight = torch.tensor([[1.0, -0.5], [0.001, 0.0005], [0.0, 0.0]]).view(3, 2, 1, 1)
    q, scales = quantise(weight, 8)
    assert q.flatten(1).tolist() == [[127, -64], [127, 64], [0, 0]]
    assert q.dtype == torch.int8
    torch.testing.assert_close(scales, torch.tensor([1 / 127, 0.001 / 127, 1.0]))
    turned, same = quantise(weight.transpose(0, 1), 8, axis=1)
    assert torch.equal(turned.transpose(0, 1), q)
    assert torch.equal(same, scales)


@needs_native
@torch.no_grad()
def test_currents_meet_the_weights_as_they_are():
    torch.manual_seed(3)
    conv, currents = nn.Conv2d(8, 8, 3, padding=1), torch.randn(4, 8, 5, 5)
    assert torch.equal(EventConv2d(conv, "int8")(currents), EventConv2d(conv)(currents))


@needs_native
@torch.no_grad()
def test_a_busy_image_has_the_same_weights_as_an_idle_one():
    """Of two steps, a float32 synapse convolves the busy ones densely."""
    torch.manual_seed(4)
    images = [random_spikes(2, 1, 40, 5, 5, rate=rate) for rate in (0.1, 0.9)]
    event = EventConv2d(nn.Conv2d(40, 24, 3, padding=1), "int8")
    together = event(pack(torch.cat(images, dim=1)).flatten(0, 1)).unflatten(0, (2, -1))
    for k, image in enumerate(images):
        assert torch.equal(event(pack(image).flatten(0, 1)), together[:, k])
        q, scales = quantise(event.weight, 8)
        kernel = q.double() * scales.double().view(-1, 1, 1, 1)
        want = conv2d(image.flatten(0, 1).double(), kernel, event.bias.double(), padding=1)
        torch.testing.assert_close(together[:, k].double(), want, rtol=1e-5, atol=1e-5)


@needs_native
def test_a_kernel_too_large_for_exact_sums_stays_float32(monkeypatch):
    monkeypatch.setattr(weights, "MOST_ROWS", 71)
    conv = nn.Conv2d(8, 4, 3, padding=1)
    spikes = pack(random_spikes(4, 1, 8, 5, 5)).flatten(0, 1)
    assert torch.equal(EventConv2d(conv, "int16")(spikes), EventConv2d(conv)(spikes))


@needs_native
@pytest.mark.parametrize("precision", ["float32", *PRECISIONS])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
@torch.no_grad()
def test_repeated_pixels_have_fewer_taps(kind, precision):
    """Sums of a kernel's taps are rounded anew, so the bound is that of their own scale."""
    torch.manual_seed(5)
    conv = CONVOLUTIONS[kind]()
    spikes = random_spikes(4, 2, conv.in_channels, 5, 4)
    doubled = pack(spikes).upsampled()
    assert doubled.words.shape[2:4] == (5, 4)
    got = EventConv2d(conv, precision)(doubled.flatten(0, 1))
    large = interpolate(spikes.flatten(0, 1), scale_factor=2.0).double()
    want, size = conv.double()(large), conv.weight.abs().max().item()
    convolve = conv_transpose2d if kind == "transposed" else conv2d
    options = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
    fired = convolve(large, torch.ones_like(conv.weight), **options)
    step = {"float32": 1e-6, "int16": 4 / 65534, "int8": 4 / 254}[precision]
    assert got.shape == want.shape
    assert ((got - want).abs() <= step * size * fired + 1e-6).all()


def call(model):
    sample = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(sample, timestep=10).sample


@pytest.fixture
def unet():
    torch.manual_seed(6)
    return SpikingUNet(**U_NET).eval()


@needs_native
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_network(unet, precision):
    compiled = compile_for_inference(unet, weights=precision)
    kinds = [type(m) for m in compiled.modules()]
    assert PackedNeuron in kinds
    assert {m.precision for m in compiled.modules() if isinstance(m, EventConv2d)} == {precision}
    assert compiled.event_weights == precision
    got, want = call(compiled), call(unet)
    assert got.isfinite().all()
    assert not torch.equal(got, call(compile_for_inference(unet)))
    assert (got - want).abs().mean() < 0.5 * want.abs().mean()
    assert torch.equal(call(copy.deepcopy(compiled)), got)
    assert torch.equal(call(compile_for_inference(compiled, weights=precision)), got)


@needs_native
def test_refusals(unet, monkeypatch):
    with pytest.raises(UserError, match=r"unknown weights 'int4'.*int8"):
        compile_for_inference(unet, weights="int4")
    compiled = compile_for_inference(unet, weights="int8")
    with pytest.raises(UserError, match="compiled already, with weights='int8'"):
        compile_for_inference(compiled)
    monkeypatch.setattr(compiling, "native", lambda: None)
    with pytest.raises(UserError, match=r"int16.*python -m spikediff\.native\.build"):
        compile_for_inference(unet, weights="int16")
