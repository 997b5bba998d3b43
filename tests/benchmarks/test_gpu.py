"""The benchmark on a GPU: it keeps what it measured, and runs whole in Triton's interpreter."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from performance.gpu import __main__ as command
from performance.gpu.__main__ import Section
from performance.gpu.device import Bench
from performance.table import Group, Row

GROUP = Group("network on a GPU", "a step", "s", {"ours": Row(1.0, 1.0, 1.0, 3)})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_refuses_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["performance.gpu"])
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(SystemExit, match="2"):
        command.main()
    assert capsys.readouterr().err.count("\n") == 1


def test_a_section_that_fails_keeps_its_groups(monkeypatch, tmp_path):
    def measure(_bench):
        yield GROUP
        raise ValueError("no more")

    monkeypatch.setitem(command.SECTIONS, "broken", Section(measure, 1.0))
    groups = tmp_path / "groups"
    assert command.run_here("broken", Bench(interpreted=True), groups) == 1
    kept = [json.loads(line) for line in groups.read_text().splitlines()]
    assert kept[0]["name"] == GROUP.name
    assert kept[1:] == [{"error": "ValueError: no more"}]


@pytest.mark.skipif(os.name != "posix", reason="a script stands for Python")
def test_a_section_out_of_time_keeps_its_groups(monkeypatch, tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nprintf \'{"name": "a"}\\n{"na\' > "$6"\nsleep 60\n')
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))
    groups, error = command.run_apart("sddpm", [], 1.0)
    assert groups == [{"name": "a"}]
    assert error == "stopped after 1 s"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_the_whole_in_the_interpreter(tmp_path):
    table = tmp_path / "table.json"
    subprocess.run(
        [sys.executable, "-m", "performance.gpu", "--interpret", "-o", str(table)],
        env=os.environ | {"TORCHDYNAMO_DISABLE": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
    )
    found = json.loads(table.read_text())
    assert found["interpreted"]
    assert found["errors"] == {}
    assert {group["section"] for group in found["groups"]} == {
        "neuron on a GPU",
        "integer training on a GPU",
        "network on a GPU",
    }
    ours = [group for group in found["groups"] if "spikes_that_differ" in group["facts"]]
    assert ours
    assert all(group["facts"]["spikes_that_differ"]["ours triton"] == 0 for group in ours)
