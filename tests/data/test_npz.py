"""Damaged and hostile npz files."""

import numpy as np
import pytest

from spikediff.data.arrays import read_npz


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "set.npz"
    np.savez_compressed(path, images=np.arange(5000, dtype=np.int64) % 251, labels=np.arange(3))
    return path


def test_arrays_come_in_the_order_asked_for(archive):
    labels, images = read_npz(archive, ["labels", "images"])
    assert (len(labels), len(images)) == (3, 5000)


def test_a_missing_key_lists_what_is_there(archive, refused):
    message = refused(read_npz, archive, ["arr_0"])
    assert f"{archive}: has no array 'arr_0' (it holds images, labels)" in message


@pytest.mark.parametrize("kept", [0, 3, 50, 200, -1, -30])
def test_a_truncated_archive(archive, kept, refused):
    archive.write_bytes(archive.read_bytes()[:kept])
    assert f"{archive}: damaged npz file" in refused(read_npz, archive, ["images"])


def test_flipped_bytes(archive, refused):
    content = bytearray(archive.read_bytes())
    content[150:160] = bytes(10)
    archive.write_bytes(content)
    assert f"{archive}: damaged npz file" in refused(read_npz, archive, ["images"])


def test_pickled_objects_are_never_loaded(tmp_path, refused):
    path = tmp_path / "objects.npz"
    np.savez(path, images=np.array([{"a": 1}], dtype=object))
    assert "pickled objects" in refused(read_npz, path, ["images"])


def test_other_files_are_not_npz(tmp_path, refused):
    text, single = tmp_path / "text.npz", tmp_path / "single.npy"
    text.write_text("hello")
    np.save(single, np.zeros(3))
    assert "not a zip archive" in refused(read_npz, text, ["images"])
    assert "single array" in refused(read_npz, single.rename(tmp_path / "single.npz"), ["images"])
    assert "not a regular file" in refused(read_npz, tmp_path, ["images"])


def test_an_archive_that_unpacks_to_too_much(archive, refused, monkeypatch):
    monkeypatch.setattr("spikediff.data.arrays.MOST_NPZ_BYTES", 40_000)
    message = refused(read_npz, archive, ["images"])
    assert f"{archive}: unpacks to 40,280 bytes, more than 40,000" in message
