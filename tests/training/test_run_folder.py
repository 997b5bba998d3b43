"""The folder of a run: one owner, readers that write nothing, and files that are whole."""

import os
import shutil
import signal
import time
from dataclasses import replace

import pytest
import torch
from crashes import in_child
from hypothesis import given, settings
from hypothesis import strategies as st

from spikediff.cli import main
from spikediff.errors import UserError
from spikediff.files.tensors import read_tensors, write_tensors
from spikediff.files.writing import FolderLock, leftovers, write_whole
from spikediff.hub.describe import trained_steps
from spikediff.progress import StopSignal
from spikediff.training.checkpoint import Checkpoint, load_latest, save_checkpoint, settle
from spikediff.training.curve import Averages, LossCurve, LossValues, read_curve
from spikediff.training.first_stage import is_finished
from spikediff.training.recipe import load_run_recipe
from spikediff.training.run_folder import RunFolder
from spikediff.training.trained import load_trained
from spikediff.training.trainer import Trainer


def train(recipe, folder, **options):
    assert Trainer(recipe, folder, show_progress=False, **options).train()


@pytest.fixture(scope="module")
def done(small, with_steps, tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp("done") / "run"
    train(with_steps(small, 4), folder)
    return folder


@pytest.fixture
def run(done, tmp_path):
    """A finished run of one's own."""
    return shutil.copytree(done, tmp_path / "run")


def checkpoint(step, value=0.0):
    tensors = {group: {"w": torch.full((3,), value)} for group in ("model", "average", "optimizer")}
    state = {"image_size": 8, "averaged_updates": 0, "lr_schedule": {"last_epoch": step}}
    return Checkpoint(step, tensors, state)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def content(folder):
    return sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))


def owner(folder, then=signal.pause):
    """Fork a process that owns a folder, and does something; return when it owns it."""
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            lock = FolderLock(folder)
            os.write(tell, b"x")
            then()
            lock.release()
        finally:
            os._exit(0)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    os.close(tell)
    return child


def end(child):
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.mark.parametrize("option", ["resume", "overwrite"])
def test_a_run_has_one_owner(option, small, run):
    before, child = content(run), owner(run)
    try:
        with pytest.raises(UserError, match="is being trained by another process"):
            Trainer(small, run, show_progress=False, **{option: True})
    finally:
        end(child)
    assert content(run) == before
    train(small, run, **{option: True})


def test_the_lock_dies_with_its_process_though_a_worker_lives(run):
    read, tell = os.pipe()

    def with_a_worker():
        worker = os.fork()
        if worker == 0:
            signal.pause()
        os.write(tell, b"%d" % worker)
        signal.pause()

    child = owner(run, with_a_worker)
    worker = int(os.read(read, 20))
    end(child)
    FolderLock(run).release()
    os.kill(worker, signal.SIGKILL)


def test_two_trainings_of_one_process(small, with_steps, tmp_path):
    first = Trainer(small, tmp_path / "run", show_progress=False)
    with pytest.raises(UserError, match="another process"):
        Trainer(small, tmp_path / "run", resume=True, show_progress=False)
    assert first.train()
    train(with_steps(small, 7), tmp_path / "run", resume=True)


def test_a_trainer_that_is_refused_owns_nothing(small, run):
    with pytest.raises(UserError, match="another seed"):
        Trainer(replace(small, seed=9), run, resume=True, show_progress=False)
    FolderLock(run).release()


def test_readers_change_nothing(small, run):
    """Beside a draft that is being written and one that is whole."""
    checkpoints = run / "checkpoints"
    shutil.rmtree(run / "pipeline")
    shutil.copytree(checkpoints / "step-00000004", checkpoints / ".unfinished-step-00000005")
    (checkpoints / ".unfinished-step-00000006").mkdir()
    (checkpoints / ".unfinished-step-00000006" / "model.safetensors").write_bytes(b"half")
    shutil.rmtree(checkpoints / "step-00000004")
    before = content(run)
    assert load_latest(checkpoints).step == 4, "the draft is whole"
    load_trained(run)
    assert trained_steps(RunFolder(run), small) == 4
    assert main(["info", str(run)]) == 0
    assert content(run) == before
    train(small, run, resume=True)
    assert leftovers(checkpoints) == []


def test_a_whole_draft_is_adopted_and_another_removed(tmp_path, caplog):
    save_checkpoint(tmp_path, checkpoint(2, 1.0), 1)
    (tmp_path / "step-00000002").rename(tmp_path / ".unfinished-step-00000002")
    (tmp_path / ".unfinished-step-00000003").mkdir()
    settle(tmp_path)
    assert names(tmp_path) == ["step-00000002"]
    assert "step-00000003: left unfinished by a killed run; removed" in caplog.text


def test_a_checkpoint_that_is_there_is_not_written_again(tmp_path):
    save_checkpoint(tmp_path, checkpoint(3), 1)
    before = content(tmp_path)
    save_checkpoint(tmp_path, checkpoint(3), 1)
    assert content(tmp_path) == before
    save_checkpoint(tmp_path, checkpoint(3, 1.0), 1)
    assert load_latest(tmp_path).tensors["model"]["w"].tolist() == [1.0] * 3


def test_a_damaged_checkpoint_of_a_later_step_is_not_kept_instead(tmp_path):
    save_checkpoint(tmp_path, checkpoint(2), 2)
    save_checkpoint(tmp_path, checkpoint(9), 2)
    (tmp_path / "step-00000009" / "model.safetensors").write_bytes(b"")
    save_checkpoint(tmp_path, checkpoint(3), 1)
    assert names(tmp_path) == ["step-00000003"]


def test_checkpoints_sort_by_number(tmp_path):
    for step in (99_999_999, 100_000_000, 1_000_000_000):
        save_checkpoint(tmp_path, checkpoint(step), 2)
    (tmp_path / "step-by-step").mkdir()
    assert load_latest(tmp_path).step == 1_000_000_000
    assert "step-99999999" not in names(tmp_path)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(1, 12), st.integers(0, 14), st.integers(1, 3))
def test_the_curve_of_a_stopped_run_is_that_of_another(tmp_path_factory, every, steps, more, terms):
    """Whatever the distance of rows, wherever it stops, and though it was to end there."""

    def walk(folder, first, last, meter):
        curve = LossCurve(folder, first, with_last=not meter.state())
        for step in range(first + 1, last + 1):
            values = {f"t{i}": (step * 0.37 + i) % 1.1 for i in range(terms)}
            meter.add(LossValues(values, {"seen": step / 3}), step / 7)
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


def test_the_curve_of_a_run_that_a_signal_stopped(small, with_steps, tmp_path):
    recipe = with_steps(small, 7, log_every=5, checkpoint_every=3)
    train(recipe, tmp_path / "whole")
    stopped = Trainer(recipe, tmp_path / "parts", show_progress=False)
    original = stopped._step

    def interrupted(*batch):
        if stopped.step == 3:
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


@pytest.mark.parametrize("left", ["", "samples", "checkpoints", ".unfinished-recipe.yaml"])
@pytest.mark.parametrize("option", [{}, {"resume": True}, {"overwrite": True}])
def test_what_a_kill_leaves_before_the_recipe(left, option, small, tmp_path):
    root = tmp_path / "run"
    root.mkdir()
    if left.startswith("."):
        (root / left).write_text("name: r")
    else:
        (root / left).mkdir(exist_ok=True)
    folder = RunFolder(root)
    folder.open(small, option.get("resume", False), option.get("overwrite", False))
    assert load_run_recipe(root) == small
    assert not leftovers(root)


def test_an_empty_recipe_is_no_run(small, run):
    (run / "recipe.yaml").write_text("")
    for use in (
        lambda: Trainer(small, run, resume=True, show_progress=False),
        lambda: load_run_recipe(run),
    ):
        with pytest.raises(UserError, match=r"recipe.yaml: is empty"):
            use()


def test_equal_files_are_not_written_again(small, with_steps, run):
    kept = [run / "recipe.yaml", run / "environment.json", *(run / "pipeline").rglob("*.*")]
    calibration = run / "pipeline" / "calibration.json"
    calibration.write_text("{}")
    before = {path: path.stat().st_mtime_ns for path in kept}
    train(with_steps(small, 4), run, resume=True)
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    train(small, run, resume=True)
    assert not calibration.exists(), "it was measured on other weights"


FOREIGN = ["thesis.tex", "samples/mine.png", "checkpoints/notes.txt", "pipeline/unet/plot.pdf"]


@pytest.mark.parametrize("name", FOREIGN)
def test_overwrite_removes_no_file_of_others(name, small, run):
    (run / name).write_text("mine")
    before = content(run)
    with pytest.raises(UserError, match=f"1 others lie there: {name}"):
        Trainer(small, run, overwrite=True, show_progress=False)
    assert content(run) == before


def test_overwrite_spares_a_recipe_that_is_none_of_a_run(small, tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: mine  # by hand\n")
    with pytest.raises(UserError, match="is no run folder"):
        Trainer(small, tmp_path, overwrite=True, show_progress=False)
    assert "by hand" in (tmp_path / "recipe.yaml").read_text()


def test_overwrite_behind_a_link(small, with_steps, run, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(run, target_is_directory=True)
    train(with_steps(small, 2), link, overwrite=True)
    assert link.is_symlink()
    assert load_latest(run / "checkpoints").step == 2
    assert [point.step for point in read_curve(run / "loss.csv")] == [2]


def test_sighup_is_noted_unless_it_is_ignored():
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGHUP)
    assert stop.received == "SIGHUP"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            signal.raise_signal(signal.SIGHUP)
        assert stop.received is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_half_written_pipeline_is_no_finished_first_stage(tmp_path):
    assert not is_finished(tmp_path)
    (tmp_path / "pipeline" / "vae").mkdir(parents=True)
    assert not is_finished(tmp_path)
    (tmp_path / "pipeline" / "vae" / "config.json").write_text("{}")
    assert not is_finished(tmp_path)


def test_processes_that_write_one_file_take_turns(tmp_path):
    path = tmp_path / "file"
    children = []
    for i in range(4):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                for _ in range(50):
                    write_whole(path, bytes([i]) * 5000)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    deadline = time.monotonic() + 20
    while any(os.waitpid(child, os.WNOHANG) == (0, 0) for child in children[:1]):
        if path.exists():
            assert len(set(path.read_bytes())) == 1
        assert time.monotonic() < deadline
    for child in children[1:]:
        assert os.waitpid(child, 0)[1] == 0
    assert names(tmp_path) == ["file"]


def test_a_draft_of_a_killed_process_is_written_over(tmp_path):
    (tmp_path / ".unfinished-a.safetensors").write_bytes(b"half")
    write_tensors(tmp_path / "a.safetensors", {"x": torch.ones(2)}, {})
    assert names(tmp_path) == ["a.safetensors"]
    assert read_tensors(tmp_path / "a.safetensors", {})["x"].tolist() == [1.0, 1.0]
    with pytest.raises(UserError, match="1 of 1 tensors hold NaN"):
        write_tensors(tmp_path / "b.safetensors", {"x": torch.tensor(torch.nan)}, {})


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_whole(path, "old")

    def too_large():
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        try:
            write_whole(path, "new" * 100)
        except OSError:
            return
        raise AssertionError

    assert in_child(too_large) == 0
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_foreign_accumulation_is_refused(small, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    with pytest.raises(UserError, match="would divide every gradient"):
        Trainer(small, tmp_path / "run", show_progress=False)
    assert not (tmp_path / "run").exists()
