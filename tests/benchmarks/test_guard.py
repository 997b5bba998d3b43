"""The regression guard: it passes what is equal and fails what is worse."""

import json
from dataclasses import asdict, replace

import pytest

from performance import __main__ as command
from performance.guard import compare, lines, worst_of_two
from performance.table import Group, Row, group_of_json


def group(ours, name="case", first=2.0, **others):
    rows = {"naive": first, "SpikingJelly": 1.1 * first, "ours native": ours, **others}
    return Group(
        "neuron",
        name,
        "s",
        {key: Row(value, value, value / first, 5) for key, value in rows.items()},
        facts={"weights": "trained, run"},
    )


def test_an_equal_table_passes():
    verdict = compare([group(0.2)], [group(0.2)])
    assert verdict.passed
    assert (verdict.compared, verdict.worse, verdict.skipped) == (1, {}, [])


def test_a_machine_of_another_speed_passes():
    assert compare([group(0.2)], [group(1.0, first=10.0)]).passed


def test_a_worse_ratio_fails_and_is_named():
    verdict = compare([group(0.2)], [group(0.3)])
    assert not verdict.passed
    assert list(verdict.worse) == ["neuron: case, ours native"]
    assert "50% worse" in next(iter(verdict.worse.values()))
    assert "FAILED" in lines(verdict, {}, {})[-1]


@pytest.mark.parametrize(("ours", "passed"), [(0.25, True), (0.27, False), (0.01, True)])
def test_the_tolerance_is_a_share_of_the_ratio(ours, passed):
    assert compare([group(0.2)], [group(ours)], tolerance=0.3).passed is passed


def test_peers_may_become_slower():
    slower = group(0.2)
    slower.rows["SpikingJelly"] = Row(9.0, 9.0, 4.5, 5)
    assert compare([group(0.2)], [slower]).passed


def test_a_row_of_ours_that_is_gone_fails():
    gone = group(0.2)
    del gone.rows["ours native"]
    gone.missing["ours native"] = "no compiler"
    verdict = compare([group(0.2)], [gone])
    assert not verdict.passed
    assert "no compiler" in verdict.worse["neuron: case, ours native"]


def test_nothing_compared_is_no_pass():
    verdict = compare([group(0.2)], [group(0.2, name="another case")])
    assert not verdict.passed
    assert "nothing could be compared" in "\n".join(lines(verdict, {}, {}))


def test_the_row_that_others_are_divided_by_is_no_comparison():
    alone = Group("sampling", "case", "s", {"ours plain": Row(2.0, 2.0, 1.0, 5)})
    verdict = compare([alone], [alone])
    assert verdict.compared == 0
    assert not verdict.passed


def test_other_weights_are_not_compared():
    other = replace(group(9.0), facts={"weights": "trained, another run"})
    verdict = compare([group(0.2), group(0.2, name="b")], [other, group(0.2, name="b")])
    assert verdict.passed
    assert verdict.compared == 1
    assert "other weights" in verdict.skipped[0]


def test_worse_is_what_is_worse_twice():
    committed = [group(0.2), group(0.2, name="b")]
    first = compare(committed, [group(0.9), group(0.9, name="b")])
    second = compare(committed, [group(0.2), group(0.9, name="b")])
    assert list(worst_of_two(first, second).worse) == ["neuron: b, ours native"]


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run the command; a section returns what the test measured."""

    def run(measured, committed):
        path = tmp_path / "committed.json"
        table = {"machine": {}, "groups": [asdict(g) for g in committed], "growth": []}
        path.write_text(json.dumps(table))
        times = iter(measured)
        monkeypatch.setattr(command, "SECTIONS", {"neuron": lambda _: [next(times)]})
        monkeypatch.setattr("sys.argv", ["performance", "--compare", str(path)])
        return command.main()

    return run


def test_the_command_fails_on_a_doctored_table(run, capsys):
    doctored = group(0.1)  # claims twice the speed that there is
    assert run([group(0.2), group(0.2)], [doctored]) == 1
    assert "WORSE -- neuron: case, ours native" in capsys.readouterr().out


def test_the_command_passes_an_equal_table(run):
    assert run([group(0.2)], [group(0.2)]) == 0


def test_the_command_measures_again_before_it_complains(run, capsys):
    assert run([group(0.9), group(0.2)], [group(0.2)]) == 0
    assert "once more: neuron" in capsys.readouterr().out


def test_a_group_survives_json():
    before = replace(group(0.2), missing={"x": "y"})
    assert group_of_json(json.loads(json.dumps(asdict(before)))) == before
