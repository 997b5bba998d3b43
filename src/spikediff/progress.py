"""Long-running work: progress reports, and signals that ask it to stop."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any, TextIO

from spikediff.errors import one_line

_LONGEST = 3.5  # seconds of silence


@dataclass
class Work:
    """A piece of work."""

    what: str  # "encoding images"
    total: int | None = None  # parts; None if unknown
    done: int = 0
    since: float = field(default_factory=time.monotonic)

    def advance(self, parts: int = 1) -> None:
        """Count further parts as done."""
        self.done += parts

    def __str__(self) -> str:
        of = "" if self.total is None else f", {self.done:,} of {self.total:,}"
        return one_line(f"{self.what}{of}, {time.monotonic() - self.since:.0f} s", 200)


_works: list[Work] = []


@contextmanager
def at_work(what: str, total: int | None = None) -> Iterator[Work]:
    """Register the work of a block, for `breaking_silence` to report.

    Example:
        >>> with at_work("counting", total=3) as work:
        ...     for _ in range(3):
        ...         work.advance()
        >>> str(work)
        'counting, 3 of 3, 0 s'
    """
    work = Work(what, total)
    _works.append(work)
    try:
        yield work
    finally:
        _works.remove(work)


@contextmanager
def waiting() -> Iterator[None]:
    """Report only work begun in this block, for example while a server waits for requests."""
    stopped = _works[:]
    _works.clear()
    try:
        yield
    finally:
        _works[:] = stopped


class Heard:
    """A text file that remembers when it was last written to."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.last = time.monotonic()
        self.in_line = False

    def write(self, text: str) -> int:
        """Write a text."""
        if text:
            self.last = time.monotonic()
            self.in_line = not text.endswith("\n")
        return self._file.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def breaking_silence(out: Heard, err: Heard) -> Iterator[None]:
    """Report the current work on `err` if neither file was written to for some seconds."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            if _works and time.monotonic() - max(out.last, err.last) > _LONGEST:
                err.write(f"{chr(10) if err.in_line else ''}spikediff: {_works[-1]}\n")
                err.flush()

    watcher = threading.Thread(target=watch, name="breaking silence", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


class StopSignal:
    """In its block, the first SIGTERM, SIGINT or SIGHUP only sets `received` to its name.

    A second one acts. A process that ignores SIGHUP, as under nohup, goes on ignoring it.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is not threading.main_thread():
            return self  # Python lets only the main thread handle signals
        hang_up = getattr(signal, "SIGHUP", None)  # Windows has none
        for number in filter(None, (signal.SIGTERM, signal.SIGINT, hang_up)):
            if number == hang_up and signal.getsignal(number) == signal.SIG_IGN:
                continue
            self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._restore()
