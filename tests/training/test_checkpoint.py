"""Checkpoints: whole, sorted by step, and written once."""

import hashlib
import json

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from spikediff.training.checkpoint import (
    Checkpoint,
    TrainingState,
    load_latest,
    save_checkpoint,
    settle,
)


def checkpoint(step, value=0.0):
    tensors = {group: {"w": torch.full((3,), value)} for group in ("model", "average", "optimizer")}
    state = {"image_size": 8, "averaged_updates": 0, "lr_schedule": {"last_epoch": step}}
    return Checkpoint(step, tensors, state)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def content(folder):
    return sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))


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


def rewrite(folder, name, content):
    """Replace a file of a checkpoint, and its checksum."""
    sums = json.loads((folder / "manifest.json").read_text())["sha256"]
    sums[name] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({"sha256": sums}))
    (folder / name).write_bytes(content)  # last: it may be the manifest


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "manifest.json",
            {},
            "manifest.json: damaged, it does not name state.json and the weights",
        ),
        ("../weights", {}, "manifest.json: damaged, it names files of other folders"),
        ("model.safetensors", {}, "step-00000003: damaged ("),
        ("state.json", [], "state.json: damaged, it holds []"),
        ("state.json", {"step": True}, "state.json: damaged, step is True"),
        ("state.json", {"step": 3}, "state.json: damaged, image_size is None"),
    ],
)
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_is_read(
    tmp_path, caplog, name, content, words
):
    save_checkpoint(tmp_path, checkpoint(2), 2)
    damaged = save_checkpoint(tmp_path, checkpoint(3), 2)
    rewrite(damaged, name, json.dumps(content).encode())
    assert load_latest(tmp_path).step == 2
    [record] = caplog.records
    assert words in record.getMessage()
    assert "falling back on the checkpoint before it" in record.getMessage()


def test_only_a_full_disk_is_a_mistake_that_the_user_can_fix(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        save_checkpoint(tmp_path / "file", checkpoint(2), 1)


def test_the_scale_of_gradients_goes_on_where_it_was(tmp_path):
    def state(scale):
        network = nn.Linear(2, 2)
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        schedule = LambdaLR(optimizer, lambda step: 1.0)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        return TrainingState(network, AveragedModel(network), optimizer, schedule, scaler)

    save_checkpoint(tmp_path, state(8.0).checkpoint(1, image_size=8), 1)
    resumed = state(2.0)
    resumed.restore(load_latest(tmp_path))
    assert resumed.scaler.get_scale() == 8.0
