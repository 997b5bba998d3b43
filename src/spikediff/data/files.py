"""Finding a data set's files, and saying in one line what is missing."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from spikediff.errors import UserError, cut


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


def brief(error: BaseException) -> str:
    r"""Return the first line of an exception's message, or its type's name.

    Args:
        error: any exception.

    Returns:
        One line.

    Example:
        >>> brief(ValueError("too short\nmore"))
        'too short'
    """
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return cut(next(iter(reason.splitlines()), "")) or type(error).__name__
