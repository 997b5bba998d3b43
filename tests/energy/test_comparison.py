"""A spiking network beside its counterpart: hand counts, and what columns must share."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spikediff.energy import COST_TABLES, CostTable, EnergyMeter, compare, measure_differences
from spikediff.energy.changes import QuantisedActivations
from spikediff.errors import UserError
from spikediff.layers import over_time
from spikediff.neurons import IF, IntegerNeuron


class Denoiser(nn.Module):
    """One activation and one convolution, called with a timestep."""

    def __init__(self, activation):
        super().__init__()
        torch.manual_seed(0)
        self.activation, self.conv = activation, nn.Conv2d(2, 4, 3, padding=1)

    def forward(self, sample, timestep):
        return self.conv(self.activation(sample))


class Windowed(Denoiser):
    def __init__(self, activation, spiking_steps):
        super().__init__(activation)
        self.spiking_steps = spiking_steps

    def forward(self, sample, timestep):
        window = sample.expand(self.spiking_steps, *sample.shape)
        return over_time(self.conv, self.activation(window))


X = torch.rand(3, 2, 5, 5, generator=torch.Generator().manual_seed(0))
PAIRS = 13 * 13 * 2 * 4  # of an image: 3 + 3 + 3 + 2 + 2 places a side, 2 channels in, 4 out
DENSE = 25 * 9 * 2 * 4


def generate(model, *samples):
    with torch.no_grad():
        for i, sample in enumerate(samples):
            model(sample, 900 - i)


def observe(model, *samples, **options):
    with EnergyMeter(model, **options) as meter:
        generate(model, *samples)
    return meter


def both(spiking, *samples):
    ordinary = Denoiser(nn.SiLU())
    return observe(spiking, *samples, changes=True), observe(ordinary, *samples)


def test_columns_by_hand():
    model = Denoiser(IntegerNeuron(2, levels=4))
    found = compare(*both(model, X, X), COST_TABLES["45nm"])
    counts = model.activation(X).detach()
    columns = found.columns
    energy = {name: column.plain.energy_pj for name, column in columns.items() if column.plain}
    spikes = columns["spiking"].plain.acs
    assert energy == {
        "ordinary": pytest.approx(4.6 * 2 * 3 * DENSE),
        "spiking": pytest.approx(0.9 * spikes),
        "spiking_by_changes": pytest.approx(0.9 * spikes / 2),  # the same image twice
    }
    whole = {name: column.whole.energy_pj for name, column in columns.items() if column.whole}
    assert whole == {
        "quantised": pytest.approx((0.2 * 3 / 8 + 0.1) * 2 * 3 * DENSE),
        "spiking": pytest.approx(0.1 * spikes),
        "spiking_by_changes": pytest.approx(0.1 * spikes / 2),
    }
    assert found.activation_bits == 3
    assert "uJ per image and denoising step" in found.table()  # a timestep may have several calls
    assert columns["spiking"].spikes_per_synapse == pytest.approx(spikes / (2 * 3 * PAIRS))
    assert spikes > counts.sum()


def test_weights_and_sums_travel_alike_in_both_networks():
    """With T = 1 and as many bits, memory alone decides nothing: arithmetic does."""
    found = compare(*both(Denoiser(IntegerNeuron(2, levels=7)), X), COST_TABLES["45nm"])
    spiking, quantised = found.columns["spiking"].whole, found.columns["quantised"].whole
    assert spiking.traffic() == quantised.traffic()
    assert spiking.memory_energy_pj() == quantised.memory_energy_pj()


@given(st.integers(1, 16), st.integers(1, 2))
@settings(max_examples=20)
def test_a_window_carries_the_bits_of_its_largest_count(spiking_steps, images):
    meter = observe(Windowed(IF(), spiking_steps), X[:images])
    bits = meter.ledger.activation_bits
    assert 2 ** (bits - 1) <= spiking_steps < 2**bits
    counts = observe(Denoiser(IntegerNeuron(2, levels=spiking_steps)), X[:images])
    assert counts.ledger.activation_bits == bits


def test_a_window_of_steps_has_no_column_of_changes():
    found = compare(*both(Windowed(IF(), 4), X, X), COST_TABLES["45nm"])
    assert found.columns["spiking_by_changes"].plain is None
    assert found.columns["spiking_by_changes"].to_dict()["whole_numbers"] is None
    assert max(map(len, found.table().splitlines())) <= 80


def test_a_table_without_prices_of_whole_numbers_leaves_them_out():
    mine = CostTable("mine", 2.0, 1.0, "my simulator")
    found = compare(*both(Denoiser(IntegerNeuron(2, levels=4)), X), mine)
    assert all(column.whole is None for column in found.columns.values())
    assert "8-bit weights" not in found.table()
    assert "mine, arithmetic" in found.table()


def test_hardware_without_multipliers_cannot_run_the_counterpart():
    with pytest.raises(UserError, match="no price for a multiply-accumulate"):
        compare(*both(Denoiser(IntegerNeuron(2, levels=4)), X), COST_TABLES["loihi"])


def test_equal_activations_are_computed_once_and_other_ones_twice():
    ordinary = Denoiser(nn.ReLU())
    still = measure_differences(ordinary, lambda: generate(ordinary, X, X), bits=3)
    assert still.report(changes=True).macs == 3 * DENSE
    assert still.report(changes=True).changed_share == 0.0
    moved = measure_differences(ordinary, lambda: generate(ordinary, X, X + 2), bits=8)
    report = moved.report(changes=True)
    assert report.changed_share == 1.0
    assert report.macs == 3 * (DENSE + PAIRS)  # what changed meets no padding
    assert moved.report().macs == 2 * 3 * DENSE


def test_differences_are_counted_where_they_occur():
    ordinary, other = Denoiser(nn.Identity()), X.clone()
    other[0, 0, 2, 2] += 1.0  # in the middle: 9 places, 4 channels
    meter = measure_differences(ordinary, lambda: generate(ordinary, X, other), bits=6)
    assert meter.report(changes=True).macs == 3 * DENSE + 9 * 4
    assert meter.report(changes=True, padding=False).macs == 3 * PAIRS + 9 * 4
    assert meter.report(changes=True).changed_share == 1 / X.numel()


def test_differences_are_a_column():
    spiking, ordinary = both(Denoiser(IntegerNeuron(2, levels=4)), X, X)
    network = Denoiser(nn.SiLU())
    differences = measure_differences(network, lambda: generate(network, X, X), bits=3)
    for trained in (False, True):
        found = compare(spiking, ordinary, COST_TABLES["45nm"], differences, trained)
        assert "100.0% of the differences are zero, of a" + "n un" * (not trained) in found.table()
        ditto = found.columns["quantised_by_differences"].whole
        assert ditto.macs * 2 == found.columns["quantised"].whole.macs
        assert ditto.traffic().sums == 1.5 * found.columns["quantised"].whole.traffic().sums
        assert max(map(len, found.table().splitlines())) <= 80


@given(st.integers(1, 8), st.integers(0, 2**31), st.floats(-1.0, 1.0), st.floats(0.01, 100.0))
@settings(max_examples=30)
def test_the_chosen_range_is_no_worse_than_the_full_one(bits, seed, shift, scale):
    x = scale * (torch.randn(500, generator=torch.Generator().manual_seed(seed)) + shift)
    activations = QuantisedActivations(bits)
    assert activations.quantise((0, 1), x) is None
    activations.fix()
    whole = activations.quantise((0, 1), x)
    assert whole.min() >= 0
    assert whole.max() <= 2**bits - 1
    chosen = activations._quantisers[0, 1]
    low, high = min(0.0, x.min().item()), max(0.0, x.max().item())
    full = type(chosen)((high - low) / (2**bits - 1), 0, bits)
    full = full._replace(zero=round(-low / full.scale))
    assert chosen.error(x) <= full.error(x)
    assert activations.quantise((0, 1), torch.zeros(1)) == chosen.zero  # zero stays zero
