"""Read untrusted files: only regular files of limited size, depth and number of values."""

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from spikediff.errors import UserError, cut

MIB, GIB = 2**20, 2**30
# The largest file of each kind, in bytes.
MOST_YAML = 1 * MIB
MOST_JSON = 64 * MIB
MOST_IMAGE = 256 * MIB
MOST_DATA = 64 * GIB  # data sets and weights

MOST_DEPTH = 64  # nested lists and mappings
MOST_NODES = 2_000_000  # lists, mappings and values of a JSON file


@contextmanager
def open_regular(path: Path, most: int = MOST_DATA) -> Iterator[BufferedReader]:
    """Open a regular file of at most `most` bytes, or a link to one; refuse anything else at once.

    Raises:
        UserError: The file is missing, unreadable or too large, or is a pipe, device or folder.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits for a writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise UserError(f"{path}: cannot be read, no such file") from None
    except (OSError, ValueError) as error:  # ValueError: the name contains a zero byte
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}); check the file") from None
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise UserError(
            f"{path}: cannot be read, it is not a regular file; give a file, "
            "not a folder, pipe or device"
        )
    with os.fdopen(descriptor, "rb") as file:
        if found.st_size > most:
            raise UserError(
                f"{path}: has {found.st_size:,} bytes, more than the {most:,} that such a file may "
                "have; is it the right file?"
            )
        yield file


def check_regular(path: Path) -> Path:
    """Return the path of a regular file, for a library that opens files itself."""
    with open_regular(path):
        return path


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a regular file in hexadecimal."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_regular(path: Path, most: int = MOST_DATA) -> bytes:
    """Return the bytes of a regular file."""
    with open_regular(path, most) as file:
        try:
            return file.read()
        except (OSError, MemoryError) as error:
            reason = getattr(error, "strerror", None) or "not enough memory"
            raise UserError(f"{path}: cannot be read ({reason}); check the file") from None


def read_text(path: Path, most: int = MOST_JSON) -> str:
    """Return the text of a regular UTF-8 file."""
    try:
        return read_regular(path, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text ({error.reason})") from None


def read_json(path: Path) -> Any:
    """Return the content of a JSON file."""
    try:
        content = json.loads(read_text(path))
    except UserError:
        raise
    except (ValueError, RecursionError) as error:  # ValueError: also for numbers with many digits
        raise UserError(f"{path}: cannot be read as JSON ({cut(str(error))})") from None
    _check_tree(content, str(path))
    return content


def _check_tree(content: Any, where: str) -> None:
    seen, level = 0, [content]
    for _ in range(MOST_DEPTH):
        below: list[Any] = []
        for part in level:
            if isinstance(part, dict):
                below += [*part, *part.values()]
            elif isinstance(part, list):
                below += part
            if len(below) + seen > MOST_NODES:
                raise UserError(f"{where}: holds more than {MOST_NODES:,} values")
        seen += len(below)
        if not below:
            return
        level = below
    raise UserError(f"{where}: lists and mappings lie more than {MOST_DEPTH} levels deep")
