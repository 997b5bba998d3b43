"""Files that are whole, whoever writes them and whatever stops it."""

import signal
import time
from functools import partial

import pytest
import torch
from children import Child
from crashes import in_child

from spikediff.errors import UserError
from spikediff.files.tensors import read_tensors, write_tensors
from spikediff.files.writing import write_whole


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_processes_that_write_one_file_take_turns(tmp_path):
    path, texts = tmp_path / "file", [bytes([i]) * 5000 for i in range(4)]

    def write(text):
        for _ in range(30):
            write_whole(path, text)

    running = [Child(partial(write, text)) for text in texts]
    deadline = time.monotonic() + 20
    while running:
        if path.exists():
            assert path.read_bytes() in texts
        assert time.monotonic() < deadline
        status = running[-1].ended()
        if status is not None:
            assert status == 0
            running.pop()
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
