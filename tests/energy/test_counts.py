"""Integer counts, T x rate and changes, against hand counts and brute force."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from spikediff.energy import EnergyMeter, audit
from spikediff.errors import UserError
from spikediff.inspection import SpikeRecorder
from spikediff.layers import over_time
from spikediff.neurons import IF, LIF, CountNeuron, IntegerNeuron, unroll
from spikediff.systems.integer import IntegerSpikingUNet


def observe(model, *calls, **options):
    with EnergyMeter(model, **options) as meter, torch.no_grad():
        for call in calls:
            model(*call)
    return meter


def reached(events, conv):
    """Return how many weights the events of a convolution's input meet."""
    ones = torch.ones_like(conv.weight, dtype=torch.float64)
    return round(
        functional.conv2d(events.double(), ones, None, conv.stride, conv.padding).sum().item()
    )


def layer(levels, channels=3):
    torch.manual_seed(0)
    return nn.Sequential(IntegerNeuron(channels, levels), nn.Conv2d(channels, 4, 3, padding=1))


@given(st.integers(1, 127), st.integers(1, 3), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_counts_are_as_many_spikes(levels, batch, seed):
    model = layer(levels)
    current = 3 * torch.rand(batch, 3, 5, 4, generator=torch.Generator().manual_seed(seed))
    counts = model[0](current).detach()
    report = observe(model, (current,)).report()
    assert (report.macs, report.acs) == (0, reached(counts, model[1]))
    assert report.spiking_steps == 1
    assert report.neuron_updates == levels * counts.numel()
    assert report.firing_rate == pytest.approx(counts.sum().item() / report.neuron_updates)


def test_spike_by_spike_costs_what_counts_cost():
    model, current = layer(4), 2 * torch.rand(2, 3, 5, 4)
    counts = model[0](current)
    window = unroll(counts, 4)
    spikes = observe(model[1], (window.flatten(0, 1),)).report()
    assert spikes.acs == observe(model, (current,)).report().acs > 0


def test_t_x_rate_of_counts_by_hand():
    model, current = layer(4), 2 * torch.rand(2, 3, 5, 4)
    counts = model[0](current)
    passed = reached(torch.ones_like(counts), model[1])
    report = observe(model, (current,)).report()
    assert report.spikes_per_synapse == pytest.approx(reached(counts, model[1]) / passed)
    assert [c.spikes_per_synapse for c in report.layers if c.calls] == [report.spikes_per_synapse]
    assert report.to_dict()["spikes_per_synapse"] == report.spikes_per_synapse
    assert f"{report.spikes_per_synapse:.3f}" in report.table().splitlines()[-1]


class Windowed(nn.Module):
    def __init__(self):
        super().__init__()
        self.neuron, self.conv = LIF(), nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, window):
        return over_time(self.conv, self.neuron(window))


def test_t_x_rate_of_a_window_by_hand():
    model, window = Windowed(), 3 * torch.rand(4, 2, 3, 5, 5)
    spikes = model.neuron(window)
    report = observe(model, (window,)).report()
    one_pass = reached(torch.ones(2, 3, 5, 5), model.conv)
    assert report.spikes_per_synapse == pytest.approx(
        reached(spikes.flatten(0, 1), model.conv) / one_pass
    )
    dense = observe(nn.Conv2d(3, 4, 1), (torch.rand(2, 3, 5, 5),)).report()
    assert dense.spikes_per_synapse is None


def test_every_neuron_firing_at_every_step_is_t():
    model = Windowed()
    model.neuron = IF(v_reset=None)
    report = observe(model, (torch.ones(4, 2, 3, 5, 5),)).report()
    assert (report.spikes_per_synapse, report.firing_rate) == (4.0, 1.0)


class Denoiser(nn.Module):
    def __init__(self, levels=4):
        super().__init__()
        self.layers = layer(levels)

    def forward(self, sample, timestep):
        return self.layers(sample)


def test_changes_are_added_to_what_was_kept():
    model = Denoiser()
    calls = [2 * torch.rand(2, 3, 5, 4) for _ in range(3)]
    counts = [model.layers[0](call).detach() for call in calls]
    changes = [counts[0], *((b - a).abs() for a, b in pairwise(counts))]
    meter = observe(model, *zip(calls, (9, 5, 1), strict=True), changes=True)
    conv = model.layers[1]
    assert meter.report(changes=True).acs == sum(reached(change, conv) for change in changes)
    assert meter.report().acs == sum(reached(count, conv) for count in counts)


def test_changes_go_on_from_timestep_to_timestep_and_begin_afresh_with_new_images():
    model, x = Denoiser(), 2 * torch.rand(2, 3, 5, 4)
    full = reached(model.layers[0](x), model.layers[1])
    still = observe(model, (x, 9), (x, 5), (x, 1), changes=True)
    assert still.report(changes=True).acs == full
    assert still.report(changes=False).acs == 3 * full
    assert still.report(changes=True).changed_share == 0.0
    assert still.report(changes=True).spikes_per_synapse == pytest.approx(
        still.report().spikes_per_synapse / 3
    )
    again = observe(model, (x, 9), (x, 5), (x, 9), (x, 5), changes=True)
    assert again.report(changes=True).acs == 2 * full


def test_kept_sums_are_traffic():
    model, x = Denoiser(), 2 * torch.rand(2, 3, 5, 4)
    meter = observe(model, (x, 9), (x, 5), changes=True)
    plain, kept = meter.report().traffic(), meter.report(changes=True).traffic()
    assert (kept.activations, kept.sums) == (1.5 * plain.activations, 1.5 * plain.sums)
    assert kept.weights == plain.weights


def test_changes_that_nobody_followed_are_refused():
    model, x = Denoiser(), torch.rand(1, 3, 5, 4)
    with pytest.raises(UserError, match=r"make the meter with EnergyMeter\(changes=True\)"):
        observe(model, (x, 9)).report(changes=True)
    with pytest.raises(UserError, match="strict accounting only"):
        observe(model, (x, 9), changes=True).report("paper", changes=True)


def test_only_the_stem_and_the_embedding_of_the_integer_network_are_real_valued():
    torch.manual_seed(0)
    model = IntegerSpikingUNet(8, 1, block_out_channels=(8, 16)).eval()
    verdict = audit(observe(model, (torch.randn(2, 1, 8, 8), 10)).report())
    named = {finding.layer for finding in verdict.findings}
    assert "stem" in named
    embedding = {name for name in named if name.startswith("time_embedding")}
    biases = {name for name, _ in model.named_modules() if name.endswith(".time")}
    assert embedding
    assert named - embedding - biases == {"stem", "(model)"}
    assert {f.operation for f in verdict.findings if f.layer == "(model)"} == {"function"}


def test_the_recorder_sees_counts_as_spikes():
    model, current = Denoiser(levels=3), 2 * torch.rand(2, 3, 5, 4)
    with SpikeRecorder(model) as record:
        model(current, 7)
    counts = model.layers[0](current)
    (seen,) = record.layers.values()
    assert seen.rate == pytest.approx(counts.mean().item() / 3)
    assert (seen.shape, seen.observed) == ((3, 5, 4), 6)
    window = seen.windows[0]
    assert torch.equal(window.crossings(), window.spikes == 1)
    chosen = counts[0].flatten()[seen.units]
    torch.testing.assert_close(window.spikes.sum(0).float(), chosen)
    assert seen.neuron == "IntegerNeuron, up to 3 spikes a window"


class FixedPoint(CountNeuron):
    """Whole thresholds, as a deployment form has them."""

    levels = 3

    def potential(self, current):
        return current / 256

    def forward(self, current):
        return sum((current >= 256 * k - 128).to(torch.uint8) for k in (1, 2, 3))


class Deployed(nn.Module):
    """A tiny deployment form; operators of the package's names, defined as their docs say."""

    def __init__(self, operators):
        super().__init__()
        self.operators, self.neuron = operators, FixedPoint()
        weight = torch.randint(-127, 128, (4, 3, 3, 3), dtype=torch.int8)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.shift = nn.Parameter(torch.tensor([2], dtype=torch.int8), requires_grad=False)

    def forward(self, image, timestep, state=None, kind="count"):
        fixed = self.operators.to_fixed_point(image, 8)
        current = self.operators.fixed_point_conv2d(fixed, self.weight[:3], 1, 1) >> self.shift
        counts = self.neuron(current)
        if kind == "change":
            before, sums = state or (torch.zeros_like(counts), counts.new_zeros((2, 4, 3, 3)).int())
            sums = self.operators.change_conv2d(counts, before, sums, self.weight, 2, 1)
        else:
            sums = getattr(self.operators, f"{kind}_conv2d")(counts, self.weight, 2, 1)
        return self.operators.from_fixed_point(sums << self.shift, 8), (counts, sums)


@pytest.fixture(scope="module")
def operators():
    """Operators under the names of `spikediff.systems.integer`, computed in double precision."""
    library = torch.library.Library("spikediff_meter_test", "DEF")

    def convolve(x, weight, stride, padding):
        return functional.conv2d(x.double(), weight.double(), None, stride, padding).int()

    def change(counts, before, sums, weight, stride, padding):
        return sums + convolve(counts.int() - before.int(), weight, stride, padding)

    definitions = {
        "count_conv2d(Tensor x, Tensor w, int s, int p) -> Tensor": convolve,
        "event_conv2d(Tensor x, Tensor w, int s, int p) -> Tensor": convolve,
        "fixed_point_conv2d(Tensor x, Tensor w, int s, int p) -> Tensor": convolve,
        "change_conv2d(Tensor x, Tensor b, Tensor y, Tensor w, int s, int p) -> Tensor": change,
        "to_fixed_point(Tensor x, int b) -> Tensor": lambda x, b: (x * 2**b).round().short(),
        "from_fixed_point(Tensor x, int b) -> Tensor": lambda x, b: x.float() / 2**b,
    }
    for schema, compute in definitions.items():
        library.define(schema)
        library.impl(schema.partition("(")[0], compute, "CompositeExplicitAutograd")
    yield torch.ops.spikediff_meter_test
    library._destroy()


@pytest.mark.parametrize("kind", ["count", "event"])
def test_convolutions_of_whole_numbers(operators, kind):
    torch.manual_seed(0)
    model, image = Deployed(operators), torch.randn(2, 3, 6, 6)
    _, (counts, _) = model(image, 9)
    ones = nn.Conv2d(3, 4, 3, stride=2, padding=1)
    report = observe(model, (image, 9, None, kind)).report()
    assert report.acs == reached(counts, ones) > 0
    assert report.macs == 2 * 36 * 27 * 3  # the image, and nothing else
    assert [f.operation for f in audit(report).findings] == ["conv2d 3x3"]
    (synapses,) = (cell for cell in report.layers if cell.calls)  # both in the model itself
    assert synapses.input_bits == 16 * image.numel() + 2 * counts.numel()


def test_a_convolution_of_changes(operators):
    torch.manual_seed(0)
    model, images = Deployed(operators), torch.randn(2, 2, 3, 6, 6)
    _, state = model(images[0], 9, None, "change")
    _, (counts, _) = model(images[1], 5, state, "change")
    meter = observe(model, (images[0], 9, None, "change"), (images[1], 5, state, "change"))
    ones = nn.Conv2d(3, 4, 3, stride=2, padding=1)
    changed = (counts.int() - state[0].int()).abs()
    assert meter.report().acs == reached(state[0], ones) + reached(changed, ones)
    assert meter.report(changes=False).acs == reached(state[0], ones) + reached(counts, ones)
    assert meter.report(changes=True).to_dict() == meter.report().to_dict()
    (synapse,) = (c for c in meter.report().layers if c.kept)
    assert synapse.changed == (state[0] != 0).sum() + (changed != 0).sum()
