"""Finding a data set's files, and saying in one line what is missing.

IDX, the file format of MNIST and its descendants.

NumPy archives, read without ever unpickling.
"""

import gzip
import io
import math
import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from spikediff.errors import UserError, brief
from spikediff.files.reading import GIB, check_regular, read_regular


def candidate_folders(name: str, data_dir: Path | None, needs: str) -> tuple[Path, ...]:
    """List where a data set's files may lie: its own subfolder first, then the folder itself.

    Args:
        name: name of the data set, also that of its subfolder.
        data_dir: the folder that the user gave.
        needs: the files in words, for the message.

    Returns:
        One or two folders that exist.

    Raises:
        UserError: no folder was given, or it does not exist.
    """
    if data_dir is None:
        raise UserError(f"{name}: no data folder given; pass data_dir, a folder with {needs}")
    if not data_dir.is_dir():
        raise UserError(f"{name}: {data_dir} is not a folder; pass data_dir, a folder with {needs}")
    return tuple(folder for folder in (data_dir / name, data_dir) if folder.is_dir())


def find_first(folders: Iterable[Path], names: Sequence[str]) -> Path | None:
    """Return the first of `names` that exists, looking through the folders in turn.

    Args:
        folders: where to look.
        names: relative paths of files or folders.

    Returns:
        The path, or None.
    """
    paths = (folder / name for folder in folders for name in names)
    return next((path for path in paths if path.exists()), None)


def missing_files(
    name: str, split: str, names: Iterable[str], folders: Iterable[Path], needs: str
) -> UserError:
    """Make the error that lists what was looked for and where.

    Args:
        name: name of the data set.
        split: name of the split.
        names: the file names that were looked for.
        folders: the folders that were searched.
        needs: the files in words.

    Returns:
        The error, to raise.
    """
    looked_for = ", ".join(dict.fromkeys(names))
    searched = " and ".join(str(folder) for folder in folders)
    return UserError(
        f"{name}: no {split} files in {searched} (looked for {looked_for}); put {needs} there"
    )


MOST_IDX_BYTES = 4 * GIB  # of the pixels of a split

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
    content = read_regular(path, MOST_IDX_BYTES)
    zipped = content.startswith(b"\x1f\x8b")
    if zipped:
        header = _decompressed(content, start, path)
        declared = min(math.prod(_header(header, ndim, path)), MOST_IDX_BYTES)
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


MOST_NPZ_BYTES = 16 * GIB  # of an archive's arrays together


def read_npz(path: Path, keys: Sequence[str]) -> tuple[NDArray[Any], ...]:
    """Read arrays out of an npz file.

    Args:
        path: the file.
        keys: the names of the arrays.

    Returns:
        One array per key, in that order.

    Raises:
        UserError: no npz file, a damaged one, a missing key, or an array of pickled objects.
    """
    try:
        archive = np.load(check_regular(path), allow_pickle=False)
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib and numpy's header parser raise nearly anything
        raise _damaged(path, error) from None
    if not isinstance(archive, NpzFile):  # npy files have another reader
        raise UserError(f"{path}: a single array, not an npz archive; fetch the file again")
    with archive:
        _check_sizes(archive, path)
        return tuple(_array(archive, key, path) for key in keys)


def _check_sizes(archive: NpzFile, path: Path) -> None:
    """Refuse an archive that would be without end once it is unpacked."""
    entries: Any = archive.zip
    size = sum(entry.file_size for entry in entries.infolist())
    if size > MOST_NPZ_BYTES:
        raise UserError(f"{path}: unpacks to {size:,} bytes, more than {MOST_NPZ_BYTES:,}")


def _array(archive: NpzFile, key: str, path: Path) -> NDArray[Any]:
    """Return one array of the archive."""
    if key not in archive.files:
        held = ", ".join(archive.files) or "nothing"
        raise UserError(f"{path}: has no array {key!r} (it holds {held}); is it the right file?")
    try:
        array: NDArray[Any] = archive[key]
    except Exception as error:  # as above
        if "allow_pickle" in str(error):
            raise UserError(
                f"{path}: array {key!r} holds pickled objects, which are never loaded; "
                "save it as plain numbers"
            ) from None
        raise _damaged(path, error) from None
    return array


def _damaged(path: Path, error: Exception) -> UserError:
    """Make the error for an archive that cannot be read."""
    # Numpy guesses that an unknown file is a pickle; to the user it is just not an npz file.
    reason = "not a zip archive" if "pickle" in str(error) else brief(error)
    return UserError(f"{path}: damaged npz file ({reason}); fetch the file again")
