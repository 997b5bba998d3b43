"""LSUN bedrooms: a folder, and a database through a stand-in for the package `lmdb`."""

import contextlib
import pickle
import sys
from types import ModuleType

import pytest
import torch

from spikediff.data import load_images


class _Transaction:
    def __init__(self, content):
        self.content = content

    def get(self, key):
        return self.content.get(key)

    def cursor(self):
        return self

    def iternext(self, keys, values):
        assert keys
        assert not values
        return iter(sorted(self.content))


class _Database:
    def __init__(self, content):
        self.content = content

    def begin(self, write):
        assert not write
        return contextlib.nullcontext(_Transaction(self.content))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def __reduce__(self):
        raise TypeError("an open database cannot travel")


@pytest.fixture
def database(tmp_path, save_picture, monkeypatch):
    """A database of six bedrooms; the dict is its content."""
    content = {}
    for n in range(6):
        picture = save_picture(tmp_path / f"{n}.webp", size=(20, 16), value=40 * n)
        content[f"key{n}".encode()] = picture.read_bytes()
    (tmp_path / "bedroom_train_lmdb").mkdir()
    stand_in = ModuleType("lmdb")
    stand_in.Error = type("Error", (Exception,), {})

    def open_database(path, *, readonly, lock, readahead, meminit):
        assert path == str(tmp_path / "bedroom_train_lmdb")
        assert readonly
        if not content:
            raise stand_in.Error("bad magic")
        return _Database(content)

    stand_in.open = open_database
    monkeypatch.setitem(sys.modules, "lmdb", stand_in)
    return content


def test_folders(tmp_path, save_picture):
    for n in range(4):
        save_picture(tmp_path / "lsun-bedroom" / "bedroom_train" / "0" / f"{n}.webp", (90, 70))
    save_picture(tmp_path / "lsun-bedroom" / "bedroom_val" / "v.jpg", (90, 70))
    rooms = load_images("lsun-bedroom", data_dir=tmp_path)
    assert len(rooms) == 4
    assert rooms[0][0].shape == (3, 64, 64)
    assert len(load_images("lsun-bedroom", "test", data_dir=tmp_path)) == 1


def test_an_empty_folder(tmp_path, refused):
    (tmp_path / "bedroom_val").mkdir()
    assert "holds no images" in refused(load_images, "lsun-bedroom", "test", data_dir=tmp_path)


def test_a_database(tmp_path, database):
    rooms = load_images("lsun-bedroom", data_dir=tmp_path, image_size=8)
    assert rooms.stack().shape == (6, 3, 8, 8)
    assert abs(rooms[3][0].float().mean() - 120) < 3
    copy = pickle.loads(pickle.dumps(rooms))
    assert torch.equal(copy.stack(), rooms.stack())


def test_a_damaged_entry_is_named(tmp_path, database, refused):
    database[b"key2"] = b"broken"
    rooms = load_images("lsun-bedroom", data_dir=tmp_path)
    assert "key key2: cannot be decoded" in refused(rooms.stack)


def test_a_damaged_database(tmp_path, database, refused):
    database.clear()
    message = refused(load_images, "lsun-bedroom", data_dir=tmp_path)
    assert "cannot be opened (bad magic)" in message


def test_without_the_package(tmp_path, database, monkeypatch, refused):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    assert "pip install lmdb" in refused(load_images, "lsun-bedroom", data_dir=tmp_path)
