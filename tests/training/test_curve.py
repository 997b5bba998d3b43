"""The loss curve: the same whether a run was stopped or not."""

import shutil
import signal
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikediff.errors import UserError
from spikediff.training import curve as curve_module
from spikediff.training.curve import (
    Averages,
    CurvePoint,
    LossCurve,
    read_curve,
    running_means,
)
from spikediff.training.trainer import Trainer


@pytest.mark.usefixtures("drawn")
def test_curve_drops_rows_that_a_killed_run_lost(tmp_path, monkeypatch):
    curve = LossCurve(tmp_path)
    for step in (10, 20, 30):
        curve.append(CurvePoint(step, 1.0 / step, 2.0, 1e-3, 100.0, {"term": 0.5 / step}))
    assert [p.step for p in read_curve(tmp_path / "loss.csv")] == [10, 20, 30]
    again = LossCurve(tmp_path, after_step=20)
    assert [p.step for p in again.points] == [10, 20]
    assert [p.step for p in read_curve(tmp_path / "loss.csv")] == [10, 20]
    labels = []
    axes_of = curve_module._axes
    monkeypatch.setattr(
        curve_module, "_axes", lambda size, **of: labels.append(of) or axes_of(size, **of)
    )
    again.draw()
    assert labels[0]["ylabel"] == "loss", "not every system denoises"
    assert (tmp_path / "loss.png").read_bytes()[:4] == b"\x89PNG"


def test_the_running_mean_forgets_its_first_value_as_fast_as_others():
    means = running_means([10.0] + [1.0] * 9)
    assert means[0] == 10.0
    assert means[-1] < 2.0  # 4.5 if the first value kept the weight of all before it


def train(recipe, folder, **options):
    assert Trainer(recipe, folder, show_progress=False, **options).train()


def test_a_run_draws_its_curve(four):
    assert (four / "loss.png").is_file()


@pytest.fixture
def run(four, tmp_path):
    """A finished run of one's own."""
    return shutil.copytree(four, tmp_path / "run")


@settings(max_examples=40)
@given(st.integers(1, 7), st.integers(1, 12), st.integers(0, 14), st.integers(1, 3))
def test_the_curve_of_a_stopped_run_is_that_of_another(tmp_path_factory, every, steps, more, terms):
    """Whatever the distance of rows, wherever it stops, and though it was to end there."""

    def walk(folder, first, last, meter):
        curve = LossCurve(folder, first, with_last=not meter.state())
        for step in range(first + 1, last + 1):
            values = {f"t{i}": (step * 0.37 + i) % 1.1 for i in range(terms)}
            meter.add(values, {"seen": step / 3}, step / 7)
            if step % every == 0 or step == last:
                curve.append(meter.point(step, 1e-3, close=step % every == 0))
        return meter.state()

    folder, last = tmp_path_factory.mktemp("curve"), steps + more
    for name in ("whole", "parts"):
        (folder / name).mkdir()
    walk(folder / "whole", 0, last, Averages(8))
    walk(folder / "parts", 0, steps, left := Averages(8))
    if more:
        walk(folder / "parts", steps, last, Averages(8, left.state()))
    whole, parts = (read_curve(folder / name / "loss.csv") for name in ("whole", "parts"))
    same = [replace(point, images_per_second=0.0) for point in whole]
    assert [replace(point, images_per_second=0.0) for point in parts] == same


@pytest.mark.slow
@pytest.mark.usefixtures("heard_sighup")
def test_the_curve_of_a_run_that_a_signal_stopped(small, with_steps, tmp_path):
    recipe = with_steps(small, 4, log_every=3, checkpoint_every=3)
    train(recipe, tmp_path / "whole")
    stopped = Trainer(recipe, tmp_path / "parts", show_progress=False)
    original = stopped._step

    def interrupted(*batch):
        if stopped.step == 1:
            signal.raise_signal(signal.SIGHUP)
        return original(*batch)

    stopped._step = interrupted
    assert stopped.train() is False
    train(recipe, tmp_path / "parts", resume=True)
    rows = [
        [line.rsplit(",", 1)[0] for line in (tmp_path / name / "loss.csv").read_text().split()]
        for name in ("whole", "parts")
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 3


def test_a_row_that_was_cut_is_dropped(run, small):
    rows = read_curve(run / "loss.csv")
    with open(run / "loss.csv", "a") as file:
        file.write("5,0.1")
    assert read_curve(run / "loss.csv") == rows
    train(small, run, resume=True)
    assert [point.step for point in read_curve(run / "loss.csv")] == [2, 4, 6]


HEADER = b"step,loss,grad_norm,lr,images_per_second\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (HEADER + b"2,fast,1,1,1\n", r"is damaged \(could not convert string to float: 'fast'\)"),
        (HEADER + b"2,1,1\n", "is damaged"),
        (HEADER + b"2,1,1,1,1,1\n", "is damaged"),
        (b"step,loss\n2,1\n", r"is damaged \('grad_norm'\); remove the row, or the file"),
        (HEADER + b"\xff\n", "is not UTF-8 text"),
    ],
)
def test_a_damaged_curve_is_one_line(content, words, tmp_path):
    (tmp_path / "loss.csv").write_bytes(content)
    with pytest.raises(UserError, match=rf"loss\.csv: {words}"):
        read_curve(tmp_path / "loss.csv")
