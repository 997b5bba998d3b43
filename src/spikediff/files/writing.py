"""Files and folders that are there and whole, or not there, whenever a process is killed.

Everything is written beside its place, under a name that says so, and renamed. The names are fixed,
so that the next process finds what a killed one left (`leftovers`).
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

UNFINISHED = ".unfinished-"  # before the name of what is being written
REPLACED = ".replaced-"  # before the name of what is making room, or being removed
# Enough for a file that is renamed into place; not every system has it.
_flush_data = getattr(os, "fdatasync", os.fsync)


def write_whole(path: Path, content: bytes | str) -> None:
    """Write bytes, or text as UTF-8; the old content stays until all of the new is on the disk.

    Processes that write the same file take turns. The folder must exist.
    """
    data = content.encode() if isinstance(content, str) else content
    with _draft_of(path) as (file, draft):
        file.write(data)
        file.flush()
        _flush_data(file.fileno())
        if fcntl is None:
            file.close()  # Windows renames no open file
        os.replace(draft, path)


@contextmanager
def _draft_of(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Yield an empty file beside another, as the only process that has it; and its path."""
    draft = unfinished(path)
    while True:
        file = open(draft, "ab")  # noqa: SIM115 -- not "wb": it may still be another's
        try:
            _wait_for(file)
            mine = _is_at(file, draft)
        except BaseException:
            file.close()
            raise
        if mine:
            break
        file.close()  # renamed into place by the process that had it
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
    """Write a file with `write_whole`, unless it has this content already."""
    data = content.encode() if isinstance(content, str) else content
    if not path.is_file() or path.read_bytes() != data:
        write_whole(path, data)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it takes the place of `folder` once it is on the disk.

    A folder that holds the same files already stays as it is, with whatever else lies there. If
    the block raises, it is unchanged and the new one is removed.
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
    """Rename a flushed draft, `unfinished(final)`, into place; an older folder goes just before.

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
    """Make a file, or the entries of a folder, durable; a rename needs its folder flushed."""
    if fcntl is None:
        return  # Windows opens no folder, and flushes no file that is open for reading
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_folder(folder: Path) -> None:
    """Remove a folder at once: it is renamed first."""
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
    """Return the name under which something is written before it is whole."""
    return path.with_name(f"{UNFINISHED}{path.name}")


def replaced(path: Path) -> Path:
    """Return the name under which something is removed."""
    return path.with_name(f"{REPLACED}{path.name}")


def leftovers(folder: Path) -> list[Path]:
    """Return what killed processes left in a folder; only its owner may remove it."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.startswith((UNFINISHED, REPLACED)))


class FolderLock:
    """Exclusive ownership of an existing folder; the lock dies with the process, however it ends.

    The folder itself is locked, and nothing is written. If the file system locks only files (some
    network file systems), a file `.lock` in it is locked. On Windows nothing is locked.

    Raises:
        BlockingIOError: Another process, or another lock of this one, holds it.
    """

    _held: ClassVar["WeakSet[FolderLock]"] = WeakSet()  # of this process

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
        """Let others own the folder."""
        FolderLock._held.discard(self)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        self.release()


def _supports_no_locks(error: OSError) -> bool:
    return error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EINVAL)


def _leave_locks_to_the_parent() -> None:
    """Release inherited locks: a worker that outlives its parent would keep them."""
    for lock in list(FolderLock._held):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_locks_to_the_parent)
