"""Whether this machine can compute in the precision that a recipe asks for."""

import platform
from pathlib import Path

from spikediff.errors import UserError

_BF16_FLAGS = ("avx512_bf16", "amx_bf16")


def check_precision(mixed_precision: str, device: str) -> None:
    """Refuse precisions that would run, but at a fraction of the speed of float32.

    Args:
        mixed_precision: "no", "fp16" or "bf16".
        device: "cpu", "cuda", ...

    Raises:
        UserError: The CPU has no units for it and would emulate it, slower than float32.
    """
    if device != "cpu" or mixed_precision == "no":
        return
    if mixed_precision == "fp16":
        raise UserError("training.mixed_precision: fp16 needs a GPU; use 'no' on the CPU")
    if not cpu_has_bf16():
        raise UserError(
            "training.mixed_precision: this CPU has no bf16 units and would emulate "
            "them, slower than float32; use 'no'"
        )


def cpu_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the CPU multiplies in bf16; systems that do not say are believed."""
    if platform.machine() not in ("x86_64", "AMD64") or not cpuinfo.is_file():
        return True
    flags = cpuinfo.read_text().split()
    return any(flag in flags for flag in _BF16_FLAGS)
