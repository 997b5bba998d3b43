"""Killing a function wherever it is about to change the disk, or has opened a file."""

import builtins
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import safetensors.torch
from children import Child

KILLED = 99  # the exit status of a process that ends at a crash point
_CHANGES = ("rename", "replace", "mkdir", "rmdir", "unlink", "remove", "fsync", "fdatasync")


def in_child(function: Callable[[], object]) -> int:
    """Run a function in a forked process, and return its exit status: 0, or 1 behind an error."""
    return Child(function).wait()


def killed_everywhere(function: Callable[[], object], root: Path) -> Iterator[int]:
    """Run a function once for every crash point of it, and yield behind each kill.

    Args:
        function: What writes below `root`, and ends without an error.
        root: Changes elsewhere are no crash points.

    Yields:
        The number of the crash point, from 1 on. Whoever takes it puts `root` back.
    """
    point = 0
    while True:
        point += 1

        def until_the_point(number: int = point) -> None:
            _kill_at(number, root)
            function()

        status = in_child(until_the_point)
        if status == 0:
            return
        assert status == KILLED, f"crash point {point}: exit status {status}"
        yield point


def _kill_at(point: int, root: Path) -> None:
    """Let this process end without any cleaning up at its crash point of a number."""
    left = [point]

    def below(target: object) -> bool:
        path = f"/proc/self/fd/{target}" if isinstance(target, int) else os.fspath(target)
        return os.path.realpath(path).startswith(str(root.resolve()))

    def count() -> None:
        left[0] -= 1
        if left[0] == 0:
            os._exit(KILLED)

    def before(change: Callable[..., object]) -> Callable[..., object]:
        def changing(target: object, *args: object, **options: object) -> object:
            if options.get("dir_fd") is not None or below(target):
                count()
            return change(target, *args, **options)

        return changing

    def behind(opening: Callable[..., object]) -> Callable[..., object]:
        def opened(target: object, mode: object = "r", *args: object, **options: object) -> object:
            file = opening(target, mode, *args, **options)
            if set(str(mode)) & set("wax+") and below(target):
                count()
            return file

        return opened

    for name in _CHANGES:
        setattr(os, name, before(getattr(os, name)))
    builtins.open = io.open = behind(open)
    save_file = safetensors.torch.save_file

    def saving(tensors: object, filename: object, *args: object, **options: object) -> None:
        count()
        save_file(tensors, filename, *args, **options)
        count()

    safetensors.torch.save_file = saving
