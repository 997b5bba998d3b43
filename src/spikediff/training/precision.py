"""Whether this machine can compute in the precision that a recipe asks for."""

import logging
import platform
from pathlib import Path
from typing import Literal

_log = logging.getLogger("spikediff")
_BF16_FLAGS = ("avx512_bf16", "amx_bf16")


Precision = Literal["no", "fp16", "bf16"]


def usable_precision(mixed_precision: Precision, device: str) -> Precision:
    """Return the precision to train in: as asked, or "no" with a warning where that is faster.

    Args:
        mixed_precision: "no", "fp16" or "bf16".
        device: "cpu", "cuda", ...

    Returns:
        "no" on a CPU that would emulate the precision, at a fraction of the speed of float32.
    """
    usable = mixed_precision == "bf16" and cpu_has_bf16()
    if device != "cpu" or mixed_precision == "no" or usable:
        return mixed_precision
    _log.warning(
        "training.mixed_precision = %s: this CPU has no units for it; training in float32 (no)",
        mixed_precision,
    )
    return "no"


def cpu_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the CPU multiplies in bf16; systems that do not say are believed."""
    if platform.machine() not in ("x86_64", "AMD64") or not cpuinfo.is_file():
        return True
    flags = cpuinfo.read_text().split()
    return any(flag in flags for flag in _BF16_FLAGS)
