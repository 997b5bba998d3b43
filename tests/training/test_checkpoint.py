"""Checkpoints: whole, sorted by step, and written once."""

import torch

from spikediff.training.checkpoint import Checkpoint, load_latest, save_checkpoint, settle


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
