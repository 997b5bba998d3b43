"""The counts beside those of SpikingJelly and NeuroBench that are committed in benchmarks/."""

import importlib.util
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ROWS = json.loads((BENCHMARKS / "energy_crosscheck.json").read_text())["cases"]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location(
        "energy_crosscheck", BENCHMARKS / "energy_crosscheck.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("row", ROWS, ids=[row["network"] for row in ROWS])
def test_counts_are_those_of_the_committed_comparison(script, row):
    model, x, _ = script.cases()[row["network"]]
    assert script.ours(model, x) == row["spikediff"]


def test_peers_agree_wherever_they_know_the_kind_of_spike():
    agreeing = [row for row in ROWS if row["reading"] == "all agree"]
    assert len(agreeing) == 4
    for row in agreeing:
        assert row["spikediff"]["acs"] == row["spikingjelly"]["acs"] == row["neurobench"]["acs"] > 0
