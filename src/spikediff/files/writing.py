"""Write files and folders atomically: complete or absent, even if the process is killed.

Everything is written under a temporary name in the same folder, and then renamed. The temporary
names are fixed, so that the next process finds the leftovers of a killed one (`leftovers`).
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, ClassVar
from weakref import WeakSet

try:
    fcntl: Any = import_module("fcntl")
except ImportError:  # Windows: no locks of this kind, so processes do not wait for each other
    fcntl = None

UNFINISHED = ".unfinished-"  # prefix of a name that is being written
REPLACED = ".replaced-"  # prefix of a name that is being replaced or removed
# Sufficient for a file that is renamed into place; not available on every system.
_flush_data = getattr(os, "fdatasync", os.fsync)


def write_whole(path: Path, content: bytes | str) -> None:
    """Write bytes, or text as UTF-8; keep the old content until all of the new is on disk.

    Processes that write the same file take turns. The folder must exist.
    """
    data = content.encode() if isinstance(content, str) else content
    with _draft_of(path) as (file, draft):
        file.write(data)
        file.flush()
        _flush_data(file.fileno())
        if fcntl is None:
            file.close()  # Windows cannot rename an open file
        os.replace(draft, path)


@contextmanager
def _draft_of(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Yield an empty file beside another, exclusive to this process, and its path."""
    draft = unfinished(path)
    while True:
        file = open(draft, "ab")  # noqa: SIM115 -- not "wb": another process may still own it
        try:
            _wait_for(file)
            mine = _is_at(file, draft)
        except BaseException:
            file.close()
            raise
        if mine:
            break
        file.close()  # its owner has renamed it into place
    with file:
        file.truncate(0)
        try:
            yield file, draft
        except BaseException:
            draft.unlink(missing_ok=True)
            raise


def _wait_for(file: BinaryIO) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if not _supports_no_locks(error):
            raise


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def write_if_changed(path: Path, content: bytes | str) -> None:
    """Write a file with `write_whole`, unless it already has this content."""
    data = content.encode() if isinstance(content, str) else content
    if not path.is_file() or path.read_bytes() != data:
        write_whole(path, data)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it replaces `folder` once it is on disk.

    An existing folder that already contains the same files is kept, together with its other files.
    If the block raises an error, the existing folder is unchanged and the new one is removed.
    """
    draft = unfinished(folder)
    remove(draft)
    draft.mkdir(parents=True)
    try:
        yield draft
        files = [path for path in sorted(draft.rglob("*")) if path.is_file()]
        same = all(_same(path, folder / path.relative_to(draft)) for path in files)
        for path in () if same else (*files, *{path.parent for path in files}):
            flush(path)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    if same:
        remove(draft)
    else:
        put_in_place(draft, folder)


def _same(one: Path, two: Path) -> bool:
    return two.is_file() and one.read_bytes() == two.read_bytes()


def put_in_place(draft: Path, final: Path) -> None:
    """Rename a flushed draft, `unfinished(final)`, into place; first move an older folder away.

    A process killed between the two renames leaves the draft.
    """
    if final.exists():
        aside = replaced(final)
        remove(aside)
        os.rename(final, aside)
    os.rename(draft, final)
    flush(final.parent)
    remove(replaced(final))


def flush(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk; a rename needs its folder flushed."""
    if fcntl is None:
        return  # Windows cannot open folders, nor flush files open for reading
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_folder(folder: Path) -> None:
    """Remove a folder atomically, by renaming it first."""
    aside = replaced(folder)
    remove(aside)
    os.rename(folder, aside)
    remove(aside)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def unfinished(path: Path) -> Path:
    """Return the temporary name for writing a file or folder."""
    return path.with_name(f"{UNFINISHED}{path.name}")


def replaced(path: Path) -> Path:
    """Return the temporary name for removing a file or folder."""
    return path.with_name(f"{REPLACED}{path.name}")


def leftovers(folder: Path) -> list[Path]:
    """Return the leftovers of killed processes in a folder; only its owner may remove them."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.startswith((UNFINISHED, REPLACED)))


class FolderLock:
    """Exclusive ownership of an existing folder; the lock ends with the process in every case.

    The folder itself is locked, and nothing is written. If the file system locks only files (some
    network file systems), a file `.lock` in the folder is locked. On Windows nothing is locked.

    Raises:
        BlockingIOError: Another process, or another lock of this process, holds the folder.
    """

    _held: ClassVar["WeakSet[FolderLock]"] = WeakSet()  # locks of this process

    def __init__(self, folder: Path) -> None:
        self._descriptor: int | None = None
        if fcntl is None:
            return
        exclusive = fcntl.LOCK_EX | fcntl.LOCK_NB
        self._descriptor = os.open(folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(self._descriptor, exclusive)
            except OSError as error:
                if not _supports_no_locks(error):
                    raise
                os.close(self._descriptor)
                self._descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
                fcntl.flock(self._descriptor, exclusive)
        except BaseException:
            self.release()
            raise
        FolderLock._held.add(self)

    def release(self) -> None:
        """Give up ownership of the folder."""
        FolderLock._held.discard(self)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        self.release()


def _supports_no_locks(error: OSError) -> bool:
    return error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EINVAL)


def _leave_locks_to_the_parent() -> None:
    """Release inherited locks, which a worker that outlives its parent would keep."""
    for lock in list(FolderLock._held):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_locks_to_the_parent)
