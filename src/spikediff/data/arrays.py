"""Find a data set's files, and read NumPy archives without unpickling."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from spikediff.errors import UserError, brief
from spikediff.files.reading import GIB, check_regular


def candidate_folders(name: str, data_dir: Path | None, needs: str) -> tuple[Path, ...]:
    """Return the folders to search for a data set: the subfolder `name`, then the folder itself."""
    if data_dir is None or not data_dir.is_dir():
        fault = "no data folder given" if data_dir is None else f"{data_dir} is not a folder"
        raise UserError(f"{name}: {fault}; give data_dir (--data-dir), a folder with {needs}")
    return tuple(folder for folder in (data_dir / name, data_dir) if folder.is_dir())


def find_first(folders: Iterable[Path], names: Sequence[str]) -> Path | None:
    """Return the first of `names` that exists, searching the folders in turn; or None."""
    paths = (folder / name for folder in folders for name in names)
    return next((path for path in paths if path.exists()), None)


def missing_files(
    name: str, split: str, names: Iterable[str], folders: Iterable[Path], needs: str
) -> UserError:
    """Return an error that lists the expected file names and the folders searched."""
    looked_for = ", ".join(dict.fromkeys(names))
    searched = " and ".join(str(folder) for folder in folders)
    return UserError(
        f"{name}: no {split} files in {searched} (looked for {looked_for}); put {needs} there"
    )


MOST_NPZ_BYTES = 16 * GIB  # total size of an archive's arrays


def read_npz(path: Path, keys: Sequence[str]) -> tuple[NDArray[Any], ...]:
    """Read arrays from an npz file, one per key, in that order."""
    try:
        archive = np.load(check_regular(path), allow_pickle=False)
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib and numpy's parser can raise almost any exception
        raise _damaged(path, error) from None
    if not isinstance(archive, NpzFile):  # an npy file
        raise UserError(f"{path}: a single array, not an npz archive; fetch the file again")
    with archive:
        _check_sizes(archive, path)
        return tuple(_array(archive, key, path) for key in keys)


def _check_sizes(archive: NpzFile, path: Path) -> None:
    """Refuse an archive that unpacks to too many bytes."""
    entries: Any = archive.zip
    size = sum(entry.file_size for entry in entries.infolist())
    if size > MOST_NPZ_BYTES:
        raise UserError(f"{path}: unpacks to {size:,} bytes, more than {MOST_NPZ_BYTES:,}")


def _array(archive: NpzFile, key: str, path: Path) -> NDArray[Any]:
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
    # Numpy assumes that an unknown file is a pickle; for the user it is simply not an npz file.
    reason = "not a zip archive" if "pickle" in str(error) else brief(error)
    return UserError(f"{path}: damaged npz file ({reason}); fetch the file again")
