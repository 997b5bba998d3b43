"""NumPy archives, read without ever unpickling."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from spikediff.data.files import brief
from spikediff.errors import UserError
from spikediff.reading import GIB, check_regular

MOST_BYTES = 16 * GIB  # of an archive's arrays together


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
    if size > MOST_BYTES:
        raise UserError(f"{path}: unpacks to {size:,} bytes, more than {MOST_BYTES:,}")


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
