"""What else decides the figures: the machine, the versions, the load."""

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from performance import spikingjelly_peer
from performance.timing import clock_for
from spikediff.training.run_folder import environment


def facts(threads: int) -> dict[str, Any]:
    """Return them, for JSON.

    Args:
        threads: Threads of torch.
    """
    checkout = environment(seed=0)
    return {
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "spikingjelly": spikingjelly_peer.installed_version(),
        "threads": threads,
        "clock": clock_for(threads)[0],
        "load_average": round(os.getloadavg()[0], 2),
        "commit": checkout["git_commit"],
        "changes": checkout["git_changes"],
        "date": datetime.now(UTC).date().isoformat(),
    }


def measured_on(facts: Mapping[str, Any]) -> str:
    """Return where, when and with what a table was measured, without a full stop."""
    shown = (
        *("gpu", "driver", "triton"),
        *("cpu", "cpus", "capability", "torch", "spikingjelly", "threads", "clock"),
        *("load_average", "date"),
    )
    told = ", ".join(f"{key} {facts[key]}" for key in shown if key in facts)
    return f"Measured on {told.replace('_', ' ')}"


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
