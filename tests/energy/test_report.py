import csv
import io
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sizes import ONE_LEVEL
from spikediff.energy import COST_TABLES, CostTable, EnergyMeter, audit, load_costs
from spikediff.energy.plots import plot_comparison, plot_firing_rates, plot_parts
from spikediff.errors import UserError
from spikediff.neurons import IF, IntegerNeuron
from spikediff.systems.sddpm.network import SpikingUNet


@pytest.fixture(scope="module")
def meter():
    torch.manual_seed(0)
    model = SpikingUNet(**ONE_LEVEL).eval()
    with EnergyMeter(model) as meter, torch.no_grad():
        for timestep in (900, 500, 100):
            model(torch.randn(2, 1, 8, 8), timestep)
    return meter


@pytest.mark.parametrize("accounting", ["strict", "paper"])
def test_every_view_adds_up(meter, accounting):
    report = meter.report(accounting)
    rows = list(csv.DictReader(io.StringIO(report.to_csv())))
    for name, total in (("macs", report.macs), ("acs", report.acs)):
        assert sum(int(row[name]) for row in rows) == total
        for cells in (report.layers, report.steps, report.parts.values()):
            assert sum(getattr(cell, name) for cell in cells) == total
    assert report.energy_pj == pytest.approx(sum(float(row["energy_pj"]) for row in rows))
    assert report.energy_per_step_pj == pytest.approx(report.energy_pj / 2 / 3)


def test_a_network_without_operations_has_a_table_of_a_header(meter):
    nothing = nn.Identity()
    with EnergyMeter(nothing) as empty:
        nothing(torch.rand(1, 2))
    [header] = empty.report().to_csv().splitlines()
    assert header == meter.report().to_csv().splitlines()[0]


def test_a_report_does_not_change_when_its_meter_counts_on():
    model, spikes = nn.Sequential(IF(), nn.Linear(4, 2)), torch.ones(4, 3, 4)
    meter = EnergyMeter(model)
    with meter, torch.no_grad():
        model(spikes)
    report, before = meter.report(), meter.report().to_json()
    with meter, torch.no_grad():
        model(spikes)
    assert report.to_json() == before
    assert meter.report().acs == 2 * report.acs


def test_json_is_complete_and_the_same_twice(meter):
    first, second = meter.report().to_json(), meter.report().to_json()
    assert first == second
    read = json.loads(first)
    assert read["energy_pj"] == meter.report().energy_pj
    assert read["costs"]["source"]
    assert len(read["steps"]) == 3


@pytest.mark.parametrize("by", ["part", "layer", "step"])
def test_tables_state_the_total(meter, by):
    report = meter.report()
    last = report.table(by).splitlines()[-1]
    assert last.startswith("total")
    assert f"{report.energy_per_image_pj / 1e6:.4f}" in last


@pytest.mark.parametrize(("by", "column"), [("part", "active"), ("step", "firing")])
def test_columns_say_what_is_in_them(meter, by, column):
    """Inputs of a layer are active and have no common rate; neurons of a step fire."""
    report = meter.report()
    header, *_, total = (line.split() for line in report.table(by).splitlines())
    assert header[:4] == ["per", "image", "input", column]
    assert total[1:3] == ["-", f"{report.firing_rate:.1%}" if by == "step" else "-"]


@pytest.mark.parametrize("by", ["part", "layer", "step"])
def test_tables_fit_a_terminal(meter, by):
    report = meter.report()
    for table in (report.table(by), audit(report).table(), str(report)):
        assert max(map(len, table.splitlines())) <= 80
    assert "down_blocks.0.timestep_bias.linear linear" in report.table("layer")  # not cut
    assert "down_blocks.0.timestep_bias.linear: linear" in audit(report).table()


def test_what_is_printed_and_what_jupyter_shows(meter):
    report = meter.report()
    assert str(report).startswith(f"{report.energy_per_image_pj / 1e6:,.3f} uJ per image")
    shown = report._repr_html_()
    assert shown.startswith(f"<table><caption>{report.summary}</caption>")
    assert shown.count("<tr>") == 2 + len(report.parts)


def test_no_other_table(meter):
    with pytest.raises(UserError, match="choose from part, layer, step"):
        meter.report().table("colour")


def observed(model, *inputs, **options):
    with EnergyMeter(model, **options) as meter, torch.no_grad():
        model(*inputs)
    return meter


def test_traffic_by_hand():
    spikes = torch.tensor([[1.0, 0, 1, 0, 0, 0, 0, 0]])
    report = observed(nn.Linear(8, 2), spikes).report()
    once, none = report.traffic(), report.traffic(reuse=False)
    # A bit a spike, written and read; 16 weights read; 2 results, written and read.
    assert (once.weights, once.activations, once.sums) == (16 * 4, 2 * 8 / 8, 2 * 2 * 4)
    # No reuse: each of 4 accumulates reads a weight, and reads and writes a sum.
    assert (none.weights, none.activations, none.sums) == (4 * 4, 2, (2 * 2 + 2 * 4) * 4)
    assert report.memory_energy_pj() == 12.5 * once.weights + 2.5 * (once.activations + once.sums)
    assert report.energy_with_memory_pj() == report.energy_pj + report.memory_energy_pj()


def test_the_traffic_of_real_values_by_hand():
    report = observed(nn.Linear(8, 2), torch.rand(3, 8)).report(costs="45nm-int8")
    once, none = report.traffic(), report.traffic(reuse=False)
    assert (once.weights, once.activations, once.sums) == (3 * 16, 2 * 24, 2 * 6 * 4)
    assert (none.weights, none.activations, none.sums) == (48, 48 + 48, 48)


class InParts(nn.Module):
    """A layer that is called image by image, and once more with the same weight."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 2)

    def forward(self, x):
        return torch.cat([self.layer(row[None]) for row in x] + [self.layer(2 * x)])


def test_a_weight_is_read_once_by_an_image_and_call():
    model, x = InParts(), torch.rand(3, 8)
    assert observed(model, x).report().traffic().weights == 3 * 16 * 4
    with EnergyMeter(model) as meter, torch.no_grad():
        model(x)
        model(x)
    assert meter.report().traffic().weights == 2 * 3 * 16 * 4


def test_counts_travel_packed():
    neuron, read = IntegerNeuron(2, levels=4), nn.Conv2d(2, 3, 1)
    report = observed(nn.Sequential(neuron, read), torch.rand(1, 2, 3, 3)).report()
    assert report.traffic().activations == 2 * 18 * 3 / 8  # 0 to 4 needs three bits


def test_a_table_without_a_price_of_memory_has_none():
    report = observed(nn.Sequential(IF(), nn.Linear(4, 2)), torch.rand(4, 3, 4)).report(
        costs="loihi"
    )
    assert report.memory_energy_pj() is None
    assert report.energy_with_memory_pj() is None


@given(st.integers(1, 32), st.integers(1, 8))
def test_the_price_of_whole_numbers_grows_with_their_width(activations, weights):
    table = COST_TABLES["45nm"]
    prices = table.quantised(activations, weights)
    assert prices.mac_pj == pytest.approx(0.2 * activations * weights / 64 + 0.1)
    assert table.quantised(8).mac_pj == pytest.approx(COST_TABLES["45nm-int8"].mac_pj)
    assert prices.ac_pj == COST_TABLES["45nm-int8"].ac_pj
    assert COST_TABLES["loihi"].quantised(activations) is None


@pytest.mark.parametrize("name", COST_TABLES)
def test_cost_tables(name):
    table = load_costs(name)
    assert table.name == name
    assert table.ac_pj > 0
    assert table.mac_pj is None or table.mac_pj > table.ac_pj
    assert "20" in table.source  # a year


def test_45_nm_is_multiply_plus_add():
    assert COST_TABLES["45nm"].mac_pj == pytest.approx(3.7 + 0.9)


def test_a_table_of_ones_own(tmp_path, meter):
    file = tmp_path / "mine.yaml"
    file.write_text("mac_pj: 2\nac_pj: 0.5\nsource: my simulator\n")
    report = meter.report(costs=str(file))
    assert report.costs.name == "mine"
    assert report.energy_pj == 2 * report.macs + 0.5 * report.acs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mac_pj: 2\nsource: x\n", "missing: ac_pj"),
        ("mac_pj: 2\nac_pj: -1\nsource: x\n", "ac_pj = -1.0 must be >= 0"),
        ("mac_pj: two\nac_pj: 1\nsource: x\n", "mac_pj = 'two'"),
        ("mac_pj: 2\nac_pj: 1\nsource: x\nweight_bits: 0\n", "weight_bits = 0 is below 1"),
        ("mac_pj: 2\nac_pj: 1\nsource: ''\n", "the origin of its numbers"),
        ("mac_pj: 2\nac_pj: 1\nsource: x\nmca_pj: 3\n", "did you mean 'mac_pj'"),
        ("- 1\n", "must hold keys"),
        ("a: [", "not a YAML file"),
    ],
)
def test_a_broken_table_is_refused(tmp_path, text, message):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        load_costs(file)


def test_hardware_without_multipliers_refuses_real_values(meter):
    with pytest.raises(UserError, match="no price for a multiply-accumulate"):
        meter.report(costs="loihi")
    spiking = nn.Sequential(IF(), nn.Linear(4, 2))
    with EnergyMeter(spiking) as observed, torch.no_grad():
        spiking(torch.rand(4, 3, 4) + 0.5)
    report = observed.report(costs="loihi")
    assert report.energy_pj == 23.6 * report.acs > 0
    assert report.neuron_energy_pj == 81.0 * 48


def test_the_audit_names_what_is_no_accumulate(meter):
    verdict = audit(meter.report())
    named = {finding.layer for finding in verdict.findings}
    assert not verdict.fully_spiking
    assert {"stem.encode.conv", "head.conv", "time_embedding.linear1", "head"} <= named
    assert any("shortcut" in layer for layer in named)
    assert not any("synapse" in layer for layer in named)  # spikes in, batch norm folded
    assert 0 < verdict.share < 1
    assert [f.energy_pj for f in verdict.findings] == sorted(
        (f.energy_pj for f in verdict.findings), reverse=True
    )
    assert "not fully spiking" in verdict.table()


def test_a_network_of_spikes_alone_passes_the_audit():
    model = nn.Sequential(IF(), nn.Linear(4, 4), IF())
    with EnergyMeter(model) as meter, torch.no_grad():
        model(torch.rand(4, 2, 4))
    verdict = audit(meter.report())
    assert verdict.fully_spiking
    assert verdict.findings == ()


def test_pictures(meter, tmp_path):
    report = meter.report()
    plot_firing_rates(report, tmp_path / "new" / "rates.png")
    plot_parts(report, tmp_path / "parts.png")
    plot_comparison({"strict": report, "paper": meter.report("paper")}, tmp_path / "both.png")
    for name in ("new/rates.png", "parts.png", "both.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    layer = nn.Linear(2, 2)
    with EnergyMeter(layer) as ordinary:
        layer(torch.rand(1, 2))
    with pytest.raises(UserError, match="no firing rate to draw"):
        plot_firing_rates(ordinary.report(), tmp_path / "none.png")


def test_free_and_negative_costs():
    assert CostTable("free", 0.0, 0.0, "2026").ac_pj == 0
    with pytest.raises(UserError, match="must be >= 0"):
        CostTable("bad", float("nan"), 1.0, "2026")


def test_parts_lie_behind_the_names_that_all_layers_share():
    inner = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    outer = nn.ModuleDict({"unet": inner})
    outer.forward = lambda x: inner["b"](inner["a"](x))
    with EnergyMeter(outer) as meter, torch.no_grad():
        outer(torch.rand(1, 2))
    assert list(meter.report().parts) == ["a", "b"]
