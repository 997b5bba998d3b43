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
from spikediff.neurons import IF, LIF, IntegerNeuron, unroll
from spikediff.systems.integer import IntegerSpikingUNet, to_integer
from spikediff.systems.integer.convolution import change_conv2d


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
@settings(max_examples=20)
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
    arrived = next(c for c in meter.report(changes=True).layers if c.kept).events
    assert arrived == sum(int(change.sum()) for change in changes)


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
    with pytest.raises(UserError, match="only in the strict accounting"):
        observe(model, (x, 9), changes=True).report("paper", changes=True)


@pytest.mark.parametrize("neuron", [IF(), IntegerNeuron(3, levels=4)])
def test_spikes_that_are_nan_are_refused_and_nothing_is_left_behind(neuron):
    model, x = nn.Sequential(neuron, nn.Conv2d(3, 4, 1)), torch.ones(2, 3, 4, 4)
    refusal = pytest.raises(UserError, match="0: its neurons emitted NaN")
    with refusal, EnergyMeter(model):
        model(x / 0 * 0)
    assert not neuron._forward_hooks
    assert observe(model, (x,)).report().acs > 0


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


@pytest.fixture(scope="module")
def form():
    torch.manual_seed(0)
    return to_integer(IntegerSpikingUNet(8, 1, block_out_channels=(8, 16)).eval())


def trajectory(form, execution):
    """Two denoising steps of the same images, from the state where there is one."""
    view, state = form.with_execution(execution), None
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(2, 1, 8, 8, generator=generator)
    with EnergyMeter(view) as meter:
        for timestep in (900, 880):
            options = {} if state is None else {"state": state}
            state = view(noise * (timestep / 900), timestep, **options).state
    return meter


@pytest.mark.parametrize("execution", ["spikes", "events", "delta"])
def test_executions_of_the_deployment_form_reach_the_same_synapses(form, execution):
    by_counts, other = trajectory(form, "counts").report(), trajectory(form, execution)
    same = other.report(changes=False)
    assert same.acs == by_counts.acs > 0
    assert same.macs == by_counts.macs
    assert same.spikes_per_synapse == pytest.approx(by_counts.spikes_per_synapse)
    assert same.firing_rates == by_counts.firing_rates


def test_the_image_is_all_that_the_deployment_form_multiplies(form):
    report = trajectory(form, "delta").report()
    assert [f.layer for f in audit(report).findings if f.operation.startswith("conv")] == ["stem"]
    assert {f.layer for f in audit(report).findings} == {"stem"}
    assert report.macs == 2 * 2 * 64 * 9 * 8
    stem = next(cell for cell in report.layers if cell.layer == "stem" and cell.calls)
    assert stem.input_bits == 2 * 2 * 64 * 16  # fixed point


def test_changes_of_the_deployment_form_are_those_of_its_counts(form):
    kept = trajectory(form, "delta")
    counted = form.with_execution("counts")
    noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    followed = observe(counted, (noise, 900), (noise * (880 / 900), 880), changes=True)
    assert kept.report().acs == followed.report(changes=True).acs < followed.report().acs
    assert kept.report().spikes_per_synapse == followed.report(changes=True).spikes_per_synapse
    assert kept.report().traffic() == followed.report(changes=True).traffic()
    assert kept.report(changes=True).to_dict() == kept.report().to_dict()


def test_a_convolution_of_changes_by_hand():
    class Changed(nn.Module):
        def __init__(self):
            super().__init__()
            weight = torch.randint(-127, 128, (4, 3, 3, 3), dtype=torch.int8)
            self.weight = nn.Parameter(weight, requires_grad=False)

        def forward(self, counts, before, sums):
            return change_conv2d(counts, before, sums, self.weight, 2, 1)

    counts, before = torch.randint(0, 5, (2, 2, 3, 6, 6), dtype=torch.uint8)
    sums = torch.zeros(2, 4, 3, 3, dtype=torch.int32)
    report = observe(Changed(), (counts, before, sums)).report()
    ones = nn.Conv2d(3, 4, 3, stride=2, padding=1)
    assert report.acs == reached((counts.int() - before.int()).abs(), ones)
    assert report.changed_share == (counts != before).double().mean()
    (cell,) = report.layers
    assert cell.events == (counts.int() - before.int()).abs().sum()


def test_the_recorder_watches_the_deployment_form(form):
    with SpikeRecorder(form) as record:
        form(torch.randn(1, 1, 8, 8), 10)
    for seen in record.layers.values():
        assert torch.equal(seen.windows[0].crossings(), seen.windows[0].spikes == 1)
