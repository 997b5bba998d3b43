"""The device that is measured: its clock, its memory, its facts."""

import gc
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from performance import machine
from performance.missing import Missing
from performance.table import Patience
from spikediff.errors import one_line

INTERPRET = "TRITON_INTERPRET"


class EventClock:
    """Seconds on the GPU: a call waits for all work before it, and returns when that ended.

    The time between two calls is that between two CUDA events, which has a microsecond's resolution
    whenever the clock was started.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._last = self._now()

    def __call__(self) -> float:
        """Return the seconds."""
        now = self._now()
        self._seconds += self._last.elapsed_time(now) / 1e3
        self._last = now
        return self._seconds

    def _now(self) -> Any:
        event: Any = torch.cuda.Event(enable_timing=True)
        event.record()
        event.synchronize()
        return event


@dataclass(frozen=True)
class Bench:
    """How a section measures.

    Attributes:
        interpreted: Whether it runs on the CPU at tiny sizes, Triton's programs in the interpreter,
            to test the benchmark; its times mean nothing.
        quick: Whether it runs at small sizes, in few rounds.
        data_dir: Folder of MNIST; None takes the digits that need no download.
    """

    interpreted: bool = False
    quick: bool = False
    data_dir: Path | None = None

    @property
    def device(self) -> torch.device:
        """The first GPU; the CPU under the interpreter."""
        return torch.device("cpu" if self.interpreted else "cuda")

    def patience(self, rounds: int, budget: float) -> Patience:
        """Return how long to measure: so long, or a tenth of it in a quick run."""
        if self.interpreted:
            return Patience(time.perf_counter, 3, 0.0)
        if self.quick:
            return Patience(EventClock(), max(3, rounds // 10), budget / 10)
        return Patience(EventClock(), rounds, budget)

    def peak_bytes(self, run: Callable[[], object], kept_before: int) -> int:
        """Return the most memory of tensors during a call, less what was kept before."""
        if self.interpreted:
            return 1  # a CPU's is not counted
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - kept_before

    def kept_bytes(self) -> int:
        """Return the memory of tensors now."""
        return 0 if self.interpreted else torch.cuda.memory_allocated()

    def seconds(self, run: Callable[[], object]) -> float:
        """Return the seconds of a first call, on the wall: it may compile."""
        start = time.perf_counter()
        run()
        if not self.interpreted:
            torch.cuda.synchronize()
        return time.perf_counter() - start


def clear() -> None:
    """Give back what earlier rows have left, compiled programs among it."""
    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()


def attempt(make: Callable[[], Any]) -> Callable[[], Any]:
    """Return what makes a peer's row, or says in one line why there is none.

    A peer may fail in ways of its own, which are no fault of the benchmark.
    """
    return partial(_attempt, make)


def _attempt(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Missing:
        raise
    except Exception as error:  # whatever a peer raises is the reason
        raise Missing(f"{type(error).__name__}: {one_line(error, 200)}") from error


def facts(interpreted: bool) -> dict[str, Any]:
    """Return what decides the figures, for JSON."""
    found = machine.facts(torch.get_num_threads())
    if interpreted:
        return found | {"interpreted": True, "triton": _version("triton")}
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "memory_GiB": round(properties.total_memory / 2**30, 1),
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "triton": _version("triton"),
        "tf32_convolutions": torch.backends.cudnn.allow_tf32,  # torch's defaults, as in training
        "tf32_products": torch.backends.cuda.matmul.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        **found,
        "clock": "CUDA events",
    }


def is_interpreted() -> bool:
    """Return whether the environment asks for Triton's interpreter."""
    return os.environ.get(INTERPRET) == "1"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.split("\n")[0].strip()
