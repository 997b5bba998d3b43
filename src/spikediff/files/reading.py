"""Reading files that others wrote: regular ones only, of bounded size, depth and count."""

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

KIB, MIB, GIB = 2**10, 2**20, 2**30
# The largest file of each kind that is read, in bytes.
MOST_YAML = 1 * MIB
MOST_JSON = 64 * MIB
MOST_IMAGE = 256 * MIB
MOST_DATA = 64 * GIB  # data sets and weights

MOST_DEPTH = 64  # of lists and mappings in each other
MOST_NODES = 2_000_000  # lists, mappings and values of a JSON file


@contextmanager
def open_regular(path: Path, most: int = MOST_DATA) -> Iterator[BufferedReader]:
    """Open a regular file, or a link to one; a pipe, a device or a folder is refused at once.

    Args:
        path: The file.
        most: The largest size that is read, in bytes.

    Raises:
        UserError: It is absent, cannot be opened, is no regular file or too large.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits for a writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise UserError(f"{path}: cannot be read, no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}); check the file") from None
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise UserError(
            f"{path}: cannot be read, it is no regular file; give a file, no folder, pipe or device"
        )
    with os.fdopen(descriptor, "rb") as file:
        if found.st_size > most:
            raise UserError(
                f"{path}: has {found.st_size:,} bytes, more than the {most:,} that such a file may "
                "have; is it the right file?"
            )
        yield file


def read_regular(path: Path, most: int = MOST_DATA) -> bytes:
    """Return the bytes of a regular file.

    Args:
        path: The file.
        most: The largest size that is read, in bytes.

    Raises:
        UserError: As `open_regular`; or reading fails.
    """
    with open_regular(path, most) as file:
        try:
            return file.read()
        except (OSError, MemoryError) as error:
            reason = getattr(error, "strerror", None) or "not enough memory"
            raise UserError(f"{path}: cannot be read ({reason}); check the file") from None


def check_regular(path: Path, most: int = MOST_DATA) -> Path:
    """Return the path of a regular file, for a library that opens files itself.

    Raises:
        UserError: As `open_regular`.
    """
    with open_regular(path, most):
        return path


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a regular file, in hexadecimal digits.

    Raises:
        UserError: As `open_regular`.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(path: Path, most: int = MOST_JSON) -> str:
    """Return the text of a regular file in UTF-8.

    Raises:
        UserError: As `read_regular`; or the bytes are no UTF-8.
    """
    try:
        return read_regular(path, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: holds no UTF-8 text ({error.reason})") from None


def read_json(path: Path, most: int = MOST_JSON) -> Any:
    """Return what a JSON file holds.

    Args:
        path: The file.
        most: The largest size that is read, in bytes.

    Raises:
        UserError: As `read_regular`; or it is no JSON, or lists and mappings lie too deeply in
            each other.
    """
    try:
        content = json.loads(read_text(path, most))
    except (ValueError, RecursionError) as error:  # ValueError: also a number of too many digits
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot be read as JSON ({cut(str(error))})") from None
    check_tree(content, str(path))
    return content


def check_tree(content: Any, where: str, nodes: int = MOST_NODES, depth: int = MOST_DEPTH) -> None:
    """Refuse lists and mappings that are too many or lie too deeply in each other.

    A part that stands at several places is counted at each, as it is when somebody writes it out.

    Args:
        content: Lists, mappings and values.
        where: Their source, for the message.
        nodes: The most parts.
        depth: The most levels.

    Raises:
        UserError: There are more.
    """
    seen, level = 0, [content]
    for _ in range(depth):
        below: list[Any] = []
        for part in level:
            if isinstance(part, dict):
                below.extend(part.keys())
                below.extend(part.values())
            elif isinstance(part, list | tuple | set):
                below.extend(part)
            if len(below) + seen > nodes:
                raise UserError(f"{where}: holds more than {nodes:,} values")
        seen += len(below)
        if not below:
            return
        level = below
    raise UserError(f"{where}: lists and mappings lie more than {depth} levels deep in each other")
