import csv
import io
import json

import pytest
import torch
from torch import nn

from spikediff.energy import COST_TABLES, CostTable, EnergyMeter, audit, load_costs
from spikediff.energy.plots import plot_comparison, plot_firing_rates, plot_parts
from spikediff.errors import UserError
from spikediff.models import SpikingUNet
from spikediff.neurons import IF


@pytest.fixture(scope="module")
def meter():
    torch.manual_seed(0)
    model = SpikingUNet(8, 1, base_channels=8, channel_mult=(1, 2)).eval()
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
    assert f"{report.energy_pj / 1e6:,.4f}" in last


def test_no_other_table(meter):
    with pytest.raises(UserError, match="choose from part, layer, step"):
        meter.report().table("colour")


def test_traffic_bounds_by_hand():
    model, x = nn.Linear(8, 2), torch.tensor([[1.0, 0, 1, 0, 0, 0, 0, 0]])
    with EnergyMeter(model) as meter, torch.no_grad():
        model(x)
    # Once: 8 bits, 16 weights, 2 results. No reuse: weight, membrane in and out for 4 accumulates.
    assert meter.report().traffic_bytes() == (1 + 4 * (16 + 2), 4 * 3 * 4)


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
        ("mac_pj: 2\nac_pj: 1\nsource: ''\n", "where its numbers are from"),
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
