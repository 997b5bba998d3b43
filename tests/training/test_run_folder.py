"""The folder of a run: one owner, readers that write nothing, no foreign file removed."""

import json
import os
import shutil
import signal
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from spikediff.cli import main
from spikediff.errors import UserError
from spikediff.files.writing import FolderLock, leftovers
from spikediff.hub.describe import trained_steps
from spikediff.training.checkpoint import Checkpoint, load_latest
from spikediff.training.curve import read_curve
from spikediff.training.recipe import load_run_recipe
from spikediff.training.run_folder import RunFolder
from spikediff.training.trained import load_trained
from spikediff.training.trainer import Trainer


def train(recipe, folder, **options):
    assert Trainer(recipe, folder, show_progress=False, **options).train()


@pytest.fixture
def run(four, tmp_path):
    """A finished run of one's own."""
    return shutil.copytree(four, tmp_path / "run")


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


@pytest.mark.parametrize("option", ["resume", pytest.param("overwrite", marks=pytest.mark.slow)])
def test_a_run_has_one_owner(option, small, with_steps, run):
    before, child = content(run), owner(run)
    try:
        with pytest.raises(UserError, match="is being trained by another process"):
            Trainer(small, run, show_progress=False, **{option: True})
    finally:
        end(child)
    assert content(run) == before
    train(with_steps(small, 5 if option == "resume" else 1), run, **{option: True})


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
    recipe = with_steps(small, 1)
    first = Trainer(recipe, tmp_path / "run", show_progress=False)
    with pytest.raises(UserError, match="another process"):
        Trainer(recipe, tmp_path / "run", resume=True, show_progress=False)
    assert first.train()
    train(with_steps(small, 2), tmp_path / "run", resume=True)


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


@pytest.mark.parametrize("folder", ["run", "small"])
def test_overwrite_removes_what_trackers_wrote(folder, small, run):
    """In a folder named after the run's folder; one named after its recipe is somebody's."""
    written = [run / folder / name for name in ("events.out.tfevents.1", "9/hparams.yml")]
    for path in written:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    ours, opened = RunFolder(run), folder == "run"
    with nullcontext() if opened else pytest.raises(UserError, match="2 others lie there"):
        ours.open(small, resume=False, overwrite=True)
    ours.release()
    assert [path.exists() for path in written] == [not opened] * 2


def test_overwrite_of_a_recipe_that_is_no_text_is_one_line(small, run):
    (run / "recipe.yaml").write_bytes(b"name: \xff")
    with pytest.raises(UserError, match=r"recipe\.yaml: is not UTF-8 text"):
        RunFolder(run).claim(small, resume=False, overwrite=True)


def test_overwrite_spares_a_recipe_that_is_none_of_a_run(small, tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: mine  # by hand\n")
    with pytest.raises(UserError, match="is not a run folder"):
        Trainer(small, tmp_path, overwrite=True, show_progress=False)
    assert "by hand" in (tmp_path / "recipe.yaml").read_text()


def test_overwrite_behind_a_link(small, with_steps, run, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(run, target_is_directory=True)
    train(with_steps(small, 2), link, overwrite=True)
    assert link.is_symlink()
    assert load_latest(run / "checkpoints").step == 2
    assert [point.step for point in read_curve(run / "loss.csv")] == [2]


def test_run_folder_protects_what_is_there(small, tmp_path):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(UserError, match="no run to resume"):
        folder.open(small, resume=True, overwrite=False)
    folder.open(small, resume=False, overwrite=False)
    (folder.root / "model_index.json").touch()
    with pytest.raises(UserError, match="contains a saved pipeline, not a run"):
        folder.claim(small, resume=True, overwrite=False)
    (folder.root / "model_index.json").unlink()
    facts = json.loads(folder.environment.read_text())
    assert facts["seed"] == small.seed
    assert facts["packages"]["torch"] == torch.__version__
    with pytest.raises(UserError, match="--resume or --overwrite"):
        folder.open(small, resume=False, overwrite=False)
    folder.open(small, resume=True, overwrite=False)
    other = replace(small, model=replace(small.model, base_channels=16))
    with pytest.raises(UserError, match=r"another model: model.base_channels is 8"):
        folder.open(other, resume=True, overwrite=False)
    with pytest.raises(UserError, match="another seed"):
        folder.open(replace(small, seed=5), resume=True, overwrite=False)
    (folder.samples / "step-00000001.png").touch()
    folder.open(small, resume=False, overwrite=True)
    assert not list(folder.samples.iterdir())


def test_overwrite_spares_folders_that_are_no_run(small, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="is not a run folder"):
        RunFolder(tmp_path).open(small, resume=False, overwrite=True)
    assert (tmp_path / "thesis.tex").exists()
