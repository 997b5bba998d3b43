"""Spikes as bits: what goes in comes out, and whatever torch is asked answers as on floats."""

import operator

import pytest
import torch
from torch.nn.functional import interpolate, silu

from spikediff.events import PackedNeuron, PackedSpikes, pack
from spikediff.layers.time import fold_time, nearest_upsample, unfold_time
from spikediff.native import native
from spikediff.neurons import IF, LIF, ParametricLIF, SignedIF

pytestmark = pytest.mark.skipif(native() is None, reason="the C kernels are not built")
CHANNELS = [1, 3, 48, 63, 64, 65, 130]


def random_spikes(*shape, rate=0.3, seed=0):
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < rate).float()


def activity_of(spikes):
    """Return the share of the channels that fire at all in a group of four steps, by definition."""
    groups = [(spikes[t : t + 4] != 0).any(0).double().mean() for t in range(0, len(spikes), 4)]
    return (sum(groups) / len(groups)).item()


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("steps", [1, 4, 6])
def test_out_comes_what_went_in(channels, steps):
    spikes = random_spikes(steps, 2, channels, 3, 5)
    packed = pack(spikes)
    assert torch.equal(packed.dense(), spikes)
    assert packed.shape == spikes.shape
    assert (packed.channels, packed.spiking_steps, len(packed)) == (channels, steps, steps)
    assert packed.words.numel() == steps * 2 * 15 * -(-channels // 64)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("steps", range(1, 10))
def test_activity_is_that_of_the_dense_window(channels, steps):
    """Of the neurons, which count while they fire, and of what is packed afterwards."""
    current = torch.randn(steps, 2, channels, 3, 2, generator=torch.Generator().manual_seed(1))
    fired = PackedNeuron(IF())(current)
    dense = fired.dense()
    assert torch.equal(dense, IF()(current))
    for packed in (fired, pack(dense)):
        assert packed.activity == pytest.approx(activity_of(dense), abs=1e-6)
        by_image = [activity_of(dense[:, k : k + 1]) for k in range(2)]
        assert packed.activity_by_image().tolist() == pytest.approx(by_image, abs=1e-6)


NEURONS = [
    IF(v_reset=None),
    LIF(strict_threshold=True, decay_input=False),
    LIF(v_reset=-0.2, v_init=0.3),
    ParametricLIF(decay_input=False),
    ParametricLIF(),
]


@pytest.mark.parametrize("neuron", NEURONS, ids=repr)
def test_a_packed_neuron_fires_as_the_neuron(neuron):
    current = torch.randn(5, 3, 70, 4, 4, generator=torch.Generator().manual_seed(2))
    packed = PackedNeuron(neuron)
    with torch.no_grad():
        for window in (current, current.transpose(3, 4), current[:1].expand(5, -1, -1, -1, -1)):
            spikes = packed(window)
            assert isinstance(spikes, PackedSpikes)
            assert torch.equal(spikes.dense(), neuron(window))


def test_what_is_no_window_of_images_goes_through_the_neuron():
    packed, current = PackedNeuron(LIF()), torch.randn(4, 2, 3, 5, 5)
    memory = {}
    streamed = [packed(step[None], memory) for step in current]
    assert torch.equal(torch.cat(streamed), LIF()(current))
    assert set(memory) == {packed.neuron}
    for other in (current.double(), current.flatten(2)):
        assert torch.equal(packed(other), LIF()(other))
    signed = PackedNeuron(SignedIF())
    assert torch.equal(signed(current), SignedIF()(current))


def test_concatenated_channels_stay_bits():
    parts = [random_spikes(5, 2, c, 3, 4, seed=c) for c in (3, 64, 70)]
    joined = torch.cat([pack(x) for x in parts], dim=2)
    whole = torch.cat(parts, dim=2)
    assert isinstance(joined, PackedSpikes)
    assert torch.equal(joined.dense(), whole)
    assert joined.activity == pytest.approx(activity_of(whole), abs=1e-6)
    again = torch.cat([joined, pack(parts[0])], dim=2)
    assert torch.equal(again.dense(), torch.cat([whole, parts[0]], dim=2))
    folded = torch.cat([fold_time(pack(x)) for x in parts], dim=1)
    assert isinstance(folded, PackedSpikes)
    assert torch.equal(folded.dense(), fold_time(whole))


def test_other_concatenations_are_dense():
    a, b = random_spikes(4, 2, 3, 2, 2), random_spikes(4, 2, 3, 2, 2, seed=1)
    for dim in (0, 1, 3, -1):
        assert torch.equal(torch.cat([pack(a), pack(b)], dim=dim), torch.cat([a, b], dim=dim))
    assert torch.equal(torch.cat([pack(a), b], dim=2), torch.cat([a, b], dim=2))


def test_time_folds_and_unfolds_as_bits():
    spikes = random_spikes(3, 2, 5, 4, 4)
    folded = fold_time(pack(spikes))
    assert isinstance(folded, PackedSpikes)
    assert folded.shape == (6, 5, 4, 4)
    assert torch.equal(folded.dense(), fold_time(spikes))
    unfolded = unfold_time(folded, 3)
    assert isinstance(unfolded, PackedSpikes)
    assert torch.equal(unfolded.dense(), spikes)
    assert torch.equal(unfold_time(folded, 2), unfold_time(fold_time(spikes), 2))  # other steps


def test_repeated_pixels_stay_bits():
    spikes = random_spikes(4, 2, 66, 3, 2)
    up = nearest_upsample(pack(spikes))
    assert isinstance(up, PackedSpikes)
    assert torch.equal(up.dense(), nearest_upsample(spikes))
    assert up.activity == pack(spikes).activity
    folded = fold_time(spikes)
    for options in ({"scale_factor": 2.0, "mode": "bilinear"}, {"scale_factor": 3.0}):
        assert torch.equal(
            interpolate(fold_time(pack(spikes)), **options), interpolate(folded, **options)
        )
    volumes = interpolate(pack(spikes), scale_factor=2.0)  # of an unfolded window: other axes
    assert torch.equal(torch.as_tensor(volumes), interpolate(spikes, scale_factor=2.0))


UNKNOWN = {
    "mean": lambda x: x.mean(0),
    "torch.mean": lambda x: torch.mean(x, dim=(3, 4)),
    "sum of both": lambda x: x + x,
    "a number before": lambda x: 1.0 - x,
    "a tensor before": lambda x: torch.ones(1) * x - 0.5 * x,
    "a list": lambda x: torch.stack([x, x]),
    "index": lambda x: x[1:, 0],
    "loop": lambda x: torch.stack([step.sum() for step in x]),
    "silu": silu,
    "flatten": lambda x: x.flatten(2),
    "expand": lambda x: x[:1].expand(2, -1, -1, -1, -1),
    "power": lambda x: x**2 / 3.0,
    "minus": lambda x: -x,
    "where": lambda x: torch.where(x > 0, 2.0, x),
    "equal": lambda x: x == 1,
    "unequal": lambda x: x != x,
    "compare": lambda x: operator.and_(x >= 1, x <= 1) | (x < 0),
    "abs": abs,
    "size": lambda x: torch.tensor([x.size(0), x.numel(), x.ndim, *x.shape]),
    "product of matrices": lambda x: x @ x.transpose(3, 4),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_any_other_operation_unpacks(name):
    spikes = random_spikes(4, 2, 3, 5, 4)
    assert torch.equal(UNKNOWN[name](pack(spikes)), UNKNOWN[name](spikes))
