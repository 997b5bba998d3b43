"""Shards: whole or absent, made once, made again when they cannot be trusted."""

import os
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import save_file

from spikediff.evaluation.shards import Shards, fingerprint_of
from spikediff.files.tensors import read_tensors, write_tensors


@dataclass
class Process:
    """One of several processes, as accelerate describes it."""

    process_index: int = 0
    num_processes: int = 1

    def wait_for_everyone(self):
        pass


class Maker:
    """Row i is the number i; remembers what it was asked for."""

    def __init__(self, fail_at=None):
        self.asked = []
        self.fail_at = fail_at

    def __call__(self, first, count):
        if first == self.fail_at:
            raise KeyboardInterrupt
        self.asked.append((first, count))
        return {"rows": torch.arange(first, first + count)}


def rows(shards):
    return torch.cat([shard["rows"] for shard in shards]).tolist()


@pytest.fixture
def shards(tmp_path):
    return Shards(tmp_path / "s", key="k", total=10, size=4)


def test_every_row_is_made_once(shards):
    make = Maker()
    shards.fill(make, Process(), "")
    assert make.asked == [(0, 4), (4, 4), (8, 2)]
    assert rows(shards) == list(range(10))
    shards.fill(make, Process(), "")
    assert len(make.asked) == 3


def test_an_interrupted_run_goes_on(shards):
    with pytest.raises(KeyboardInterrupt):
        shards.fill(Maker(fail_at=8), Process(), "")
    again = Maker()
    shards.fill(again, Process(), "")
    assert again.asked == [(8, 2)]
    assert rows(shards) == list(range(10))


def test_processes_share_the_shards(shards):
    makers = [Maker(), Maker()]
    for index, make in enumerate(makers):
        shards.fill(make, Process(index, 2), "")
    assert makers[0].asked == [(0, 4), (8, 2)]
    assert makers[1].asked == [(4, 4)]
    assert rows(shards) == list(range(10))


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


def empty(path):
    path.write_bytes(b"")


def replace_by_foreign(path):
    save_file({"rows": torch.zeros(4)}, path)


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, empty, replace_by_foreign])
def test_a_damaged_shard_is_made_again(damage, shards, caplog):
    shards.fill(Maker(), Process(), "")
    damage(shards.folder / "00001.safetensors")
    again = Maker()
    shards.fill(again, Process(), "")
    assert again.asked == [(4, 4)]
    assert rows(shards) == list(range(10))
    assert "made again" in caplog.text


def test_shards_of_something_else_are_made_again(shards, caplog):
    shards.fill(Maker(), Process(), "")
    other = Shards(shards.folder, key="other", total=10, size=4)
    again = Maker()
    other.fill(again, Process(), "")
    assert len(again.asked) == 3
    assert "made from something else" in caplog.text


def test_a_longer_run_keeps_the_whole_shards(shards, caplog):
    shards.fill(Maker(), Process(), "")
    longer = Shards(shards.folder, key="k", total=13, size=4)
    again = Maker()
    longer.fill(again, Process(), "")
    assert again.asked == [(8, 4), (12, 1)]
    assert rows(longer) == list(range(13))
    assert not caplog.text


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "t.safetensors"
    write_tensors(path, {"x": torch.ones(2)}, {"key": "a"})

    def killed(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(OSError, match="No space"):
        write_tensors(path, {"x": torch.zeros(2)}, {"key": "a"})
    assert read_tensors(path, {"key": "a"})["x"].tolist() == [1, 1]


def test_fingerprints_tell_values_apart():
    assert fingerprint_of(a=1) != fingerprint_of(a=2)
    assert fingerprint_of(a="1") != fingerprint_of(a=1)
    assert fingerprint_of(a=1, b=None) != fingerprint_of(a=1)
