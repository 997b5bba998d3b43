"""IDX, the file format of MNIST and its descendants."""

import gzip
import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spikediff.data.files import brief
from spikediff.errors import UserError
from spikediff.reading import GIB, read_regular

MOST_BYTES = 4 * GIB  # of the pixels of a split

UNSIGNED_BYTE = 0x08  # the type code of uint8, the only one that image sets use


def read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, plain or gzipped.

    The header is `00 00 08 ndim`, then `ndim` big-endian 32-bit extents; the bytes follow.

    Args:
        path: the file; gzip is recognised by its first bytes, not by its name.
        ndim: 1 for labels, 3 for images.

    Returns:
        uint8 with the shape that the header declares.

    Raises:
        UserError: damaged gzip, a wrong header, or more or fewer bytes than declared.
    """
    start = 4 + 4 * ndim
    content = read_regular(path, MOST_BYTES)
    zipped = content.startswith(b"\x1f\x8b")
    if zipped:
        header = _decompressed(content, start, path)
        declared = min(math.prod(_header(header, ndim, path)), MOST_BYTES)
        content = _decompressed(content, start + declared + 1, path)
    shape = _header(content, ndim, path)
    declared, present = math.prod(shape), len(content) - start
    if present != declared:
        more = "or more " if zipped and present > declared else ""
        raise UserError(
            f"{path}: the header declares {declared} bytes {list(shape)} but {present} {more}are "
            "present; fetch the file again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _decompressed(content: bytes, most: int, path: Path) -> bytes:
    """Return the first bytes of a gzip file, no more than were declared: it may hold no end."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            return file.read(most)
    except (EOFError, OSError, zlib.error, struct.error) as error:
        reason = brief(error)
        raise UserError(f"{path}: damaged gzip ({reason}); fetch the file again") from None


def _header(content: bytes, ndim: int, path: Path) -> tuple[int, ...]:
    """Return the extents after checking the magic number."""
    magic = bytes((0, 0, UNSIGNED_BYTE, ndim))
    if content[:4] != magic:
        found = content[:4].hex() or "nothing"
        raise UserError(
            f"{path}: not an IDX file of {ndim} dimensions (starts with {found}, expected "
            f"{magic.hex()}); images and labels may be swapped, or fetch the file again"
        )
    if len(content) < 4 + 4 * ndim:
        raise UserError(f"{path}: ends inside its header; fetch the file again")
    return struct.unpack_from(f">{ndim}I", content, 4)
