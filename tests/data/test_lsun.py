"""LSUN bedrooms: a folder, and a database through a stand-in for the package `lmdb`."""

import contextlib
import pickle
import struct
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


def write_header(path, last_page=2, length=3 * 4096):
    """Write the two meta pages of an LMDB database of 64-bit machines, and zeros up to a length."""
    meta = struct.pack("=16x I 20x I 44x 48x Q Q", 0xBEEFC0DE, 4096, last_page, 1)
    pages = 2 * meta.ljust(4096, b"\0")
    path.write_bytes(pages.ljust(length, b"\0")[:length])


@pytest.fixture
def database(tmp_path, save_picture, monkeypatch):
    """A database of six bedrooms; the dict is its content."""
    content = {}
    for n in range(6):
        picture = save_picture(tmp_path / f"{n}.webp", size=(20, 16), value=40 * n)
        content[f"key{n}".encode()] = picture.read_bytes()
    (tmp_path / "bedroom_train_lmdb").mkdir()
    write_header(tmp_path / "bedroom_train_lmdb" / "data.mdb")
    stand_in = ModuleType("lmdb")
    stand_in.Error = type("Error", (Exception,), {})

    def open_database(path, *, readonly, lock, create, readahead, meminit):
        assert path == str(tmp_path / "bedroom_train_lmdb")
        assert readonly
        assert not create
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
    assert "cannot be read (bad magic)" in message


@pytest.mark.parametrize("length", [0, 10, 100, 5000, 3 * 4096 - 1])
def test_a_truncated_database_is_told_before_it_is_mapped(tmp_path, database, refused, length):
    write_header(tmp_path / "bedroom_train_lmdb" / "data.mdb", length=length)
    message = refused(load_images, "lsun-bedroom", data_dir=tmp_path)
    assert "data.mdb" in message
    assert "fetch the database again" in message


@pytest.mark.parametrize("call", ["iternext", "get"])
def test_a_database_that_cannot_be_read_further(tmp_path, database, monkeypatch, refused, call):
    def fails(*_arguments, **_options):
        raise sys.modules["lmdb"].Error("page not found")

    monkeypatch.setattr(_Transaction, call, fails)
    message = refused(lambda: load_images("lsun-bedroom", data_dir=tmp_path).stack())
    assert "cannot be read (page not found); fetch it again" in message


def test_a_database_without_pictures(tmp_path, database, monkeypatch, refused):
    monkeypatch.setattr(_Transaction, "iternext", lambda *_arguments, **_options: iter(()))
    message = refused(load_images, "lsun-bedroom", data_dir=tmp_path)
    assert "bedroom_train_lmdb is empty; fetch the database again" in message


def test_a_file_of_another_kind_is_no_database(tmp_path, database, refused):
    (tmp_path / "bedroom_train_lmdb" / "data.mdb").write_bytes(bytes(3 * 4096))
    message = refused(load_images, "lsun-bedroom", data_dir=tmp_path)
    assert "data.mdb: is not an LMDB database for this machine" in message


def test_without_the_package(tmp_path, database, monkeypatch, refused):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    assert "pip install lmdb" in refused(load_images, "lsun-bedroom", data_dir=tmp_path)
