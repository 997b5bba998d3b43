"""Stopping and going on: N steps, a stop, M steps equal N + M steps bit for bit."""

import errno
import json
import os
import shutil
import signal
import time
from dataclasses import replace

import pytest
import torch
from children import Child

from spikediff import progress
from spikediff.cli import main
from spikediff.errors import UserError
from spikediff.training import save_recipe
from spikediff.training.checkpoint import Checkpoint, load_latest, save_checkpoint
from spikediff.training.trainer import Trainer


def run(recipe, folder, **options):
    trainer = Trainer(recipe, folder, show_progress=False, **options)
    assert trainer.train()
    return load_latest(folder / "checkpoints")


def assert_same(one, two):
    assert one.step == two.step
    assert one.state == two.state
    for group, tensors in one.tensors.items():
        assert tensors.keys() == two.tensors[group].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, two.tensors[group][name]), f"{group}/{name}"


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    """The last checkpoint of the whole run, and its curve."""
    folder = tmp_path_factory.mktemp("whole")
    return run(small, folder), curve(folder)


def curve(folder):
    """The loss curve without its last column, the speed."""
    return [line.rsplit(",", 1)[0] for line in (folder / "loss.csv").read_text().splitlines()]


def test_resuming_changes_nothing(small, whole, four, tmp_path):
    shutil.copytree(four, tmp_path / "parts")
    parts = run(small, tmp_path / "parts", resume=True)
    assert_same(whole[0], parts)
    assert whole[1] == curve(tmp_path / "parts")


def test_resuming_changes_nothing_with_dropout_accumulation_plif_and_a_cosine(
    small, with_steps, tmp_path
):
    cosine = {"schedule": "cosine", "warmup_steps": 0}
    optimizer = replace(small.optimizer, gradient_accumulation_steps=2, **cosine)
    model = replace(small.model, dropout=0.2, neuron="plif")
    three = with_steps(small, 3, checkpoint_every=3)
    recipe = replace(three, optimizer=optimizer, model=model)
    whole = run(recipe, tmp_path / "whole")
    # Stopped by a signal after step 2, because a cosine schedule depends on the number of steps.
    trainer = Trainer(recipe, tmp_path / "parts", show_progress=False)
    original = trainer._step

    def interrupted(*batch):
        if trainer.step == 1:
            signal.raise_signal(signal.SIGTERM)
        return original(*batch)

    trainer._step = interrupted
    assert trainer.train() is False
    assert load_latest(tmp_path / "parts" / "checkpoints").step == 2
    assert_same(whole, run(recipe, tmp_path / "parts", resume=True))
    assert curve(tmp_path / "whole")[-1] == curve(tmp_path / "parts")[-1]


def test_a_damaged_checkpoint_is_passed_over(small, whole, four, tmp_path, caplog):
    shutil.copytree(four, tmp_path / "parts")
    newest = tmp_path / "parts" / "checkpoints" / "step-00000004" / "model.safetensors"
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(data)
    parts = run(small, tmp_path / "parts", resume=True)
    assert "checksum differs" in caplog.text
    assert_same(whole[0], parts)


@pytest.mark.parametrize("damage", ["truncate", "remove", "no manifest", "bad json"])
def test_kinds_of_damage(damage, four, tmp_path, caplog):
    shutil.copytree(four, tmp_path, dirs_exist_ok=True)
    newest = tmp_path / "checkpoints" / "step-00000004"
    if damage == "truncate":
        path = newest / "average.safetensors"
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "remove":
        (newest / "optimizer.safetensors").unlink()
    elif damage == "no manifest":
        (newest / "manifest.json").unlink()
    else:
        (newest / "manifest.json").write_text("{")
    assert load_latest(tmp_path / "checkpoints").step == 2
    assert "falling back" in caplog.text
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000002")
    with pytest.raises(UserError, match="every checkpoint is damaged"):
        load_latest(tmp_path / "checkpoints")


def test_killed_in_mid_checkpoint(small, whole, tmp_path):
    """SIGKILL while the second checkpoint is being written; the run goes on from the first."""
    folder, original, written = tmp_path / "killed", os.fsync, []

    def fsync(descriptor):
        written.append(descriptor)
        if len(written) == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        original(descriptor)

    def until_the_kill():
        os.fsync = fsync
        run(small, folder)

    assert Child(until_the_kill).wait() == -signal.SIGKILL
    left = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert left == [".unfinished-step-00000004", "step-00000002"]
    assert_same(whole[0], run(small, folder, resume=True))
    assert not list((folder / "checkpoints").glob(".unfinished*"))


@pytest.mark.parametrize(
    "name",
    [
        "SIGTERM",
        pytest.param("SIGINT", marks=pytest.mark.slow),
        pytest.param("SIGHUP", marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("heard_sighup")
def test_signal_leaves_a_checkpoint(name, small, with_steps, tmp_path):
    save_recipe(with_steps(small, 100_000, checkpoint_every=50_000), tmp_path / "recipe.yaml")
    folder, said = tmp_path / "run", tmp_path / "said"
    command = ["train", str(tmp_path / "recipe.yaml"), "--output", str(folder), "--threads", "1"]
    child = Child(lambda: main(command), said)
    wait_for_steps(folder)
    os.kill(child.pid, getattr(signal, name))
    assert child.wait() == 1
    assert f"stopped by {name}" in said.read_text()
    assert "Traceback" not in said.read_text()
    checkpoint = load_latest(folder / "checkpoints")
    assert checkpoint.step >= 2
    json.dumps(checkpoint.state)


def wait_for_steps(folder):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (folder / "loss.csv").exists() and len((folder / "loss.csv").read_text()) > 100:
            return
        time.sleep(0.02)
    pytest.fail("the run made no step within a minute")


@pytest.mark.parametrize(
    ("number", "told"),
    [(errno.ENOSPC, "no space left on the disk"), (errno.EFBIG, "larger than the system allows")],
)
def test_a_write_that_fails_before_the_first_checkpoint(number, told, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(number, "of the system")

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr("spikediff.files.writing._flush_data", full)
    with pytest.raises(UserError, match=rf"step-00000003: .*{told}.*there is no checkpoint yet"):
        save_checkpoint(tmp_path, Checkpoint(3, {}, {}), 1)


def test_full_disk_keeps_the_last_checkpoint(small, tmp_path, monkeypatch):
    trainer = Trainer(small, tmp_path, show_progress=False)
    original, written = os.fsync, []

    def full(descriptor):
        written.append(descriptor)
        if len(written) > 8:
            raise OSError(28, "No space left on device")
        original(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"no space left.*step-00000002") as caught:
        trainer.train()
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(os, "fsync", original)
    assert load_latest(tmp_path / "checkpoints").step == 2
    assert not list((tmp_path / "checkpoints").glob(".unfinished*"))


def test_a_resumed_run_counts_the_steps_before(small, four, tmp_path):
    shutil.copytree(four, tmp_path / "parts")
    trainer, told = Trainer(small, tmp_path / "parts", resume=True, show_progress=False), []
    original = trainer._step

    def step(*batch):
        told.append(str(progress._works[-1]))
        return original(*batch)

    trainer._step = step
    trainer.train()
    assert told[0].startswith(f"training, 4 of {small.training.steps}, ")


def test_loss_that_is_no_number(small, tmp_path):
    trainer = Trainer(small, tmp_path, show_progress=False)
    original = trainer._step

    def poisoned(*batch):
        if trainer.step == 2:
            with torch.no_grad():
                trainer.model.head.conv.weight.fill_(float("nan"))
        return original(*batch)

    trainer._step = poisoned
    with pytest.raises(UserError, match=r"the loss is nan at step 3; .* checkpoint is of step 2"):
        trainer.train()
    kept = load_latest(tmp_path / "checkpoints")
    assert all(t.isfinite().all() for t in kept.tensors["model"].values())


def test_only_the_last_are_kept(small, with_steps, tmp_path):
    run(with_steps(small, 5, checkpoint_every=2, keep_last=2), tmp_path)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000004", "step-00000005"]


@pytest.mark.parametrize("bad", [float("nan"), pytest.param(float("inf"), marks=pytest.mark.slow)])
def test_a_gradient_that_is_no_number_moves_no_weight(bad, small, with_steps, tmp_path):
    trainer = Trainer(with_steps(small, 6, checkpoint_every=1), tmp_path, show_progress=False)
    weight = trainer.model.head.conv.weight
    weight.register_hook(lambda grad: grad * (bad if trainer.step == 1 else 1.0))
    with pytest.raises(UserError, match=r"norm is (nan|inf) at step 2; .* checkpoint is of step 1"):
        trainer.train()
    kept = load_latest(tmp_path / "checkpoints")
    assert kept.step == 1
    for group in kept.tensors.values():
        assert all(tensor.isfinite().all() for tensor in group.values())


@pytest.mark.parametrize(
    ("group", "last"),
    [
        ("model", 2),
        ("average", 4),
        pytest.param("model", 4, marks=pytest.mark.slow),
        pytest.param("average", 2, marks=pytest.mark.slow),
    ],
)
def test_weights_that_are_no_numbers_are_not_written(group, last, small, with_steps, tmp_path):
    """As after a finite but huge step; at the last step nothing would compute a loss any more."""
    trainer = Trainer(with_steps(small, last, checkpoint_every=1), tmp_path, show_progress=False)
    original = trainer._step

    def spoiling(*batch):
        values = original(*batch)
        if trainer.step == 1:
            model = trainer.model if group == "model" else trainer.average.module
            model.stem.encode.norm.running_var[0] = torch.inf
        return values

    trainer._step = spoiling
    with pytest.raises(UserError, match=rf"the {group} after step 2: 1 of .* is of step 1; resume"):
        trainer.train()
    assert load_latest(tmp_path / "checkpoints").step == 1
    assert not (tmp_path / "pipeline").exists()


def test_a_huge_learning_rate(small, with_steps, tmp_path):
    """Whatever breaks first, loss, gradient or weights: nothing that is no number is kept."""
    recipe = with_steps(small, 30, checkpoint_every=1)
    recipe = replace(recipe, optimizer=replace(recipe.optimizer, lr=1e38, max_grad_norm=0.0))
    with pytest.raises(UserError, match=r"NaN|nan|inf"):
        Trainer(recipe, tmp_path, show_progress=False).train()
    kept = load_latest(tmp_path / "checkpoints")
    for tensors in kept.tensors.values() if kept else []:
        assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert not (tmp_path / "pipeline").exists()
