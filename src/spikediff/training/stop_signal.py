"""Being told to stop: finish the step, keep a checkpoint, then leave."""

import signal
import threading
from types import FrameType, TracebackType


class StopSignal:
    """While it is entered, the first SIGTERM, SIGINT or SIGHUP only sets `received`; a second acts.

    A process that ignores SIGHUP, as under nohup, goes on ignoring it.

    Attributes:
        received: Name of the signal that came, or None.
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
