"""Which files of a run are its own: what lies in its folder, and no link that leaves it."""

from pathlib import Path

from spikediff.errors import UserError


def own_file(path: Path, source: Path) -> Path:
    """Return the path of a file in a run's folder.

    A run may come from elsewhere, and with it a link to a file of this machine, which nobody means
    to upload.

    Args:
        path: The file.
        source: The run's folder.

    Raises:
        UserError: It is a link that leaves the folder.
    """
    if not path.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{path}: is a link that leaves {source}; put the file itself there")
    return path
