"""Functions in forked processes: what is imported is there, and a kill harms nobody else."""

import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path


class Child:
    """A function that runs in a forked process: its exit status is 0, or 1 behind an error.

    An exit status that the function returns is that of the process. What it says and logs goes to
    the file `said`, if there is one.
    """

    def __init__(self, function: Callable[[], object], said: Path | None = None) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                if said is not None:
                    sys.stdout = sys.stderr = said.open("w", buffering=1)
                    logging.getLogger().handlers.clear()  # those of pytest
                returned = function()
                status = returned if isinstance(returned, int) else 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)

    def ended(self) -> int | None:
        """Return the exit status, minus the signal of a kill; None while the process runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def wait(self, seconds: float = 180) -> int:
        """Return the exit status; after so many seconds, kill the process."""
        deadline = time.monotonic() + seconds
        while (status := self.ended()) is None:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.005)
        return status
