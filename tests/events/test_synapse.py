"""Event-driven synapses: torch's convolution, at the cost of what fires."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import conv2d

from spikediff.events import EventConv2d, pack, spike_conv2d, synapse
from spikediff.events.synapse import break_even, can_be_event_driven
from spikediff.layers.conv import pointwise_conv
from spikediff.native import native

pytestmark = pytest.mark.skipif(native() is None, reason="the C kernels are not built")


def random_spikes(*shape, rate=0.3, seed=0):
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < rate).float()


def is_event_driven(monkeypatch):
    """Return a list that grows at every call of the C kernel."""
    calls, kernel = [], synapse.event_driven
    monkeypatch.setattr(synapse, "event_driven", lambda *a: calls.append(1) or kernel(*a))
    return calls


@torch.no_grad()
def assert_convolves(conv, spikes):
    """Compare with torch in float64; what float32 sums may differ by is a bound, not a guess."""
    event = EventConv2d(conv)
    got = event(pack(spikes).flatten(0, 1))
    folded = spikes.flatten(0, 1)
    want = conv.double()(folded.double())
    terms = type(conv)(**_shape_of(conv)).double()  # the sum of the magnitudes of all terms
    terms.weight.data, terms.bias.data = conv.weight.abs(), conv.bias.abs()
    bound = terms(folded.double())
    fan_in = conv.weight[0].numel() * (conv.weight.shape[0] if event.transposed else 1) + 1
    assert got.shape == want.shape
    assert got.dtype == torch.float32
    worst = ((got - want).abs() - fan_in * 2.0**-24 * bound).max()
    assert worst <= 0, f"{worst} above the bound of rounding"
    dense = conv.float()(folded)
    torch.testing.assert_close(got, dense, rtol=1e-5, atol=1e-5 * float(bound.max()))


def _shape_of(conv):
    names = ["in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation"]
    names += ["output_padding"] if isinstance(conv, nn.ConvTranspose2d) else []
    return {name: getattr(conv, name) for name in names}


pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))
small = st.tuples(st.integers(1, 3), st.integers(1, 3))
paddings = st.tuples(st.integers(0, 3), st.integers(0, 3))
sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))
channels = st.sampled_from([1, 3, 31, 33, 64, 65])


@settings(max_examples=80)
@given(pairs, small, paddings, small, sizes, channels, channels, st.integers(1, 5))
def test_any_convolution(kernel, stride, padding, dilation, size, c_in, c_out, steps):
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    assume(all(s + 2 * p >= r for s, p, r in zip(size, padding, reach, strict=True)))
    # torch's own convolution may crash where a column reads nothing but padding (oneDNN #5942).
    starts = range(-padding[1], size[1] + padding[1] - reach[1] + 1, stride[1])
    taps = range(0, reach[1], dilation[1])
    assume(all(any(0 <= start + tap < size[1] for tap in taps) for start in starts))
    torch.manual_seed(0)
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, dilation)
    assert_convolves(conv, random_spikes(steps, 2, c_in, *size))


@settings(max_examples=80)
@given(pairs, small, paddings, small, paddings, sizes, channels, channels, st.integers(1, 5))
def test_any_transposed_convolution(
    kernel, stride, padding, dilation, more, size, c_in, c_out, steps
):
    more = [min(m, max(s, d) - 1) for m, s, d in zip(more, stride, dilation, strict=True)]
    axes = zip(size, stride, padding, dilation, kernel, more, strict=True)
    assume(all((s - 1) * r - 2 * p + d * (k - 1) + m + 1 > 0 for s, r, p, d, k, m in axes))
    torch.manual_seed(0)
    conv = nn.ConvTranspose2d(c_in, c_out, kernel, stride, padding, tuple(more), dilation=dilation)
    assert_convolves(conv, random_spikes(steps, 2, c_in, *size))


@pytest.mark.parametrize("steps", range(1, 10))
@pytest.mark.parametrize("rate", [0.02, 0.3])
def test_every_number_of_steps(steps, rate):
    torch.manual_seed(1)
    conv = nn.Conv2d(70, 50, 3, padding=1)
    assert_convolves(conv, random_spikes(steps, 3, 70, 5, 4, rate=rate))


@pytest.mark.parametrize("out_channels", [1, 8, 15, 16, 17, 31, 32, 33, 48, 65, 129])
def test_every_width_of_a_block(out_channels):
    torch.manual_seed(2)
    assert_convolves(nn.Conv2d(5, out_channels, 3, padding=1), random_spikes(4, 2, 5, 4, 3))


def test_more_images_than_a_chunk_has_room_for():
    torch.manual_seed(3)
    assert_convolves(nn.Conv2d(130, 8, 3, padding=1), random_spikes(4, 6, 130, 16, 16, rate=0.1))


def test_two_threads():
    torch.manual_seed(4)
    conv, spikes = nn.Conv2d(40, 40, 3, padding=1), pack(random_spikes(6, 3, 40, 8, 8))
    event = EventConv2d(conv)
    one = event(spikes.flatten(0, 1))
    torch.set_num_threads(2)
    try:
        assert torch.equal(event(spikes.flatten(0, 1)), one)
    finally:
        torch.set_num_threads(1)


def test_segments_of_channels():
    torch.manual_seed(5)
    parts = [random_spikes(4, 2, c, 4, 4, seed=c) for c in (3, 65, 20)]
    conv = nn.Conv2d(88, 10, 3, padding=1)
    event = EventConv2d(conv)
    joined = torch.cat([pack(x) for x in parts], dim=2).flatten(0, 1)
    with torch.no_grad():
        got, want = event(joined), conv(torch.cat(parts, dim=2).flatten(0, 1))
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
        whole = pack(torch.cat(parts, dim=2)).flatten(0, 1)  # the same channels in one segment
        assert torch.equal(event(whole), got)


def test_silence_gives_the_bias_and_one_spike_one_kernel(monkeypatch):
    torch.manual_seed(6)
    calls = is_event_driven(monkeypatch)
    conv = nn.Conv2d(67, 37, 3, padding=1)
    event, spikes = EventConv2d(conv), torch.zeros(5, 2, 67, 6, 7)
    silent = event(pack(spikes).flatten(0, 1))
    assert torch.equal(silent, conv.bias.view(1, -1, 1, 1).expand_as(silent))
    spikes[3, 1, 66, 2, 4] = 1.0
    conv.bias.data.zero_()
    out = EventConv2d(conv)(pack(spikes).flatten(0, 1)).unflatten(0, (5, 2))
    want = torch.zeros_like(out)
    want[3, 1, :, 1:4, 3:6] = conv.weight[:, 66].detach().flip(1, 2)
    assert torch.equal(out, want)
    assert len(calls) == 2


def test_above_break_even_the_dense_path_agrees(monkeypatch):
    torch.manual_seed(7)
    calls = is_event_driven(monkeypatch)
    conv = nn.Conv2d(8, 8, 3, padding=1)
    event = EventConv2d(conv)
    busy, idle = random_spikes(2, 2, 8, 5, 5, rate=0.9), random_spikes(2, 2, 8, 5, 5, rate=0.1)
    assert pack(busy).activity > break_even(2) > pack(idle).activity
    with torch.no_grad():
        for spikes, count in ((busy, 0), (idle, 1)):
            folded = spikes.flatten(0, 1)
            torch.testing.assert_close(
                event(pack(spikes).flatten(0, 1)), conv(folded), rtol=1e-5, atol=1e-5
            )
            assert len(calls) == count
        assert torch.equal(
            event(folded), conv(folded.contiguous(memory_format=torch.channels_last))
        )
    assert len(calls) == 1  # floats are convolved as ever


@pytest.mark.parametrize("conv", [nn.Conv2d(40, 24, 3, padding=1), pointwise_conv(40, 24)])
def test_an_image_does_not_depend_on_its_batch(conv):
    """The busy one is convolved densely, alone or beside idle ones, and those are not."""
    rates = (0.1, 0.9, 0.3, 0.95, 0.2)
    images = [random_spikes(2, 1, 40, 7, 7, rate=r, seed=i) for i, r in enumerate(rates)]
    event = EventConv2d(conv)
    together = event(pack(torch.cat(images, dim=1)).flatten(0, 1)).unflatten(0, (2, -1))
    for k, image in enumerate(images):
        alone = event(pack(image).flatten(0, 1))
        assert torch.equal(alone, together[:, k]), f"rate {rates[k]}"
    want = conv(torch.cat(images, dim=1).flatten(0, 1)).unflatten(0, (2, -1))
    torch.testing.assert_close(together, want.detach(), rtol=1e-5, atol=1e-5)


def test_the_function_takes_dense_and_packed_windows():
    spikes, weight, bias = random_spikes(5, 2, 9, 6, 5), torch.randn(4, 9, 3, 3), torch.randn(4)
    want = conv2d(spikes.flatten(0, 1), weight, bias, 2, 1).unflatten(0, (5, 2))
    for given_ in (spikes, pack(spikes)):
        got = spike_conv2d(given_, weight, bias, stride=2, padding=1)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_an_empty_batch():
    out = EventConv2d(nn.Conv2d(3, 5, 3, padding=1))(pack(torch.zeros(4, 0, 3, 6, 6)).flatten(0, 1))
    assert out.shape == (0, 5, 6, 6)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(4, 4, 3).double(),
        nn.Conv1d(4, 4, 3),
        nn.Linear(4, 4),
    ],
)
def test_what_it_does_not_stand_for(conv):
    assert not can_be_event_driven(conv)
