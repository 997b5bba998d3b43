"""LSUN bedrooms.

The papers do not state their training resolution; we chose 64x64 for the centred square.
"""

import importlib
import os
import struct
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from spikediff.data.arrays import candidate_folders, find_first, missing_files
from spikediff.data.dataset import DatasetSpec, Pictures
from spikediff.data.decoding import decode_image, image_files
from spikediff.data.folder import list_files
from spikediff.errors import UserError, brief
from spikediff.files.reading import open_regular

PARTS = {"train": "bedroom_train", "test": "bedroom_val"}
NEEDS = "bedroom_train and bedroom_val, either folders of images or bedroom_*_lmdb databases"


def read_lsun_bedroom(data_dir: Path | None, split: str) -> Pictures:
    """Read the bedrooms, RGB of many sizes (the shorter side has 256 pixels).

    `train` has 3,033,042 images. `test` is the official validation part (300), the only other part
    whose images have a known category.
    """
    folders = candidate_folders("lsun-bedroom", data_dir, NEEDS)
    part = PARTS[split]
    found = find_first(folders, [part, f"{part}_lmdb"])
    if found is None:
        raise missing_files("lsun-bedroom", split, [part, f"{part}_lmdb"], folders, NEEDS)
    if found.name.endswith("_lmdb"):
        read, where = partial(_read_key, found), partial(_name_of, found)
        return Pictures(_list_keys(found), read, where, str(found))
    names = list_files(found)[0]
    if not names:
        raise UserError(f"lsun-bedroom: {found} holds no images; put the {part} images there")
    return image_files([found / name for name in names], str(found))


def _list_keys(path: Path) -> tuple[bytes, ...]:
    """List the keys of a database, one per picture."""
    with _open_lmdb(path) as database, database.begin(write=False) as transaction:
        try:
            keys = tuple(transaction.cursor().iternext(keys=True, values=False))
        except _lmdb().Error as error:
            raise _damaged(path, error) from None
    if not keys:
        raise UserError(f"lsun-bedroom: {path} is empty; fetch the database again")
    return keys


def _read_key(path: Path, key: bytes) -> Image.Image:
    """Decode a picture stored in a database."""
    # Open the database for each picture, which takes a fraction of the decoding time: an open lmdb
    # database must not be carried through a fork, nor opened again in the forked worker.
    with _open_lmdb(path) as database, database.begin(write=False) as transaction:
        try:
            encoded = transaction.get(key)
        except _lmdb().Error as error:
            raise _damaged(path, error) from None
    return decode_image(encoded or b"", _name_of(path, key))


def _name_of(path: Path, key: bytes) -> str:
    return f"{path}, key {key.decode('ascii', 'replace')}"


def _lmdb() -> Any:
    try:
        return importlib.import_module("lmdb")  # lazy: optional
    except ImportError:
        raise UserError(
            "lsun-bedroom: the package lmdb is missing, which reads LMDB databases; "
            "run: pip install lmdb"
        ) from None


def _open_lmdb(path: Path) -> Any:
    """Open a database for reading, without a lock so that it works on a read-only disk."""
    lmdb = _lmdb()
    _check_length(path / "data.mdb")
    try:
        return lmdb.open(
            str(path), readonly=True, lock=False, create=False, readahead=False, meminit=False
        )
    except lmdb.Error as error:
        raise _damaged(path, error) from None


def _check_length(data: Path) -> None:
    """Refuse a file that ends before its last page, because reading past it kills the process.

    Each of the first two pages has a 16-byte header, followed by one of the two meta records
    (lmdb.h, `MDB_meta`): magic and version (4 bytes each), address and size of the map (8 each),
    two tables of trees (48 each; the first starts with the size of a page), and the numbers of the
    last page and of the transaction (8 each).
    """
    with open_regular(data) as file:
        length = os.fstat(file.fileno()).st_size
        head = file.read(_PAGE_HEAD + _META.size)
        if len(head) < _PAGE_HEAD + _META.size:
            raise UserError(f"{data}: ends inside its header; fetch the database again")
        magic, page_size, _, _ = _META.unpack_from(head, _PAGE_HEAD)
        if magic != _MAGIC or not 256 <= page_size <= 65_536:
            raise UserError(f"{data}: is not an LMDB database for this machine; fetch it again")
        file.seek(page_size)
        second = file.read(_PAGE_HEAD + _META.size)
        pages = [page for page in (head, second) if len(page) == len(head)]
        metas = [_META.unpack_from(page, _PAGE_HEAD) for page in pages]
        last_page = max(metas, key=lambda meta: meta[3])[2]
    if length < (last_page + 1) * page_size:
        raise UserError(
            f"{data}: has {length:,} bytes, and its last page ends at "
            f"{(last_page + 1) * page_size:,}; fetch the database again"
        )


_MAGIC = 0xBEEFC0DE
_PAGE_HEAD = 16
_META = struct.Struct("=I 20x I 44x 48x Q Q")  # magic, size of a page, last page, transaction


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"lsun-bedroom: {path} cannot be read ({brief(error)}); fetch it again")


LSUN_BEDROOM = DatasetSpec(
    summary="3,033,342 bedrooms, RGB; the centred square resized to 64x64",
    channels=3,
    native_size=64,
    needs=NEEDS,
    read=read_lsun_bedroom,
    horizontal_flip=True,
)
