"""Load the compiled kernels that suit this processor, if there are any."""

import ctypes
import os
import platform
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from spikediff.errors import UserError, shown
from spikediff.native.build import file_name, fingerprint

VARIABLE = "SPIKEDIFF_NATIVE"
WORD = 64  # bits of a word of spikes
KEYS = ("amx", "vnni", "avx512", "avx2", "baseline")  # of the libraries, the fastest first
CAPABILITIES = {"AVX512": KEYS[2:], "AVX2": KEYS[3:]}


class NeuronOptions(ctypes.Structure):
    """`neuron_options` of spikediff.h, field by field."""

    _fields_ = [
        *(
            (name, ctypes.c_float)
            for name in ["decay", "gain", "rest", "threshold", "reset", "v_init"]
        ),
        *((name, ctypes.c_float) for name in ["width", "height", "centre"]),
        *(
            (name, ctypes.c_int32)
            for name in ["soft", "strict", "detach_reset", "decay_input", "fused"]
        ),
        ("surrogate", ctypes.c_int32),
    ]


def candidates() -> tuple[str, ...]:
    """Return the keys of the libraries to try, the fastest first.

    `SPIKEDIFF_NATIVE` names one that runs here instead, or "none" to go without.
    """
    here, wanted = _runnable(), os.environ.get(VARIABLE)
    if not wanted:
        return here
    if wanted not in (*here, "none"):
        raise UserError(f"{VARIABLE}={shown(wanted)}: choose from {', '.join(here)}, none")
    return () if wanted == "none" else (wanted,)


def _runnable() -> tuple[str, ...]:
    """Return the keys of the libraries whose instructions this processor and system have."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return ("baseline",)
    capability = torch.backends.cpu.get_cpu_capability()
    if capability == "AVX512" and torch.cpu._is_vnni_supported():
        return KEYS if _has_tiles() else KEYS[1:]
    return CAPABILITIES.get(capability, ("baseline",))


def _has_tiles() -> bool:
    """Return whether the processor has AMX and the system lets this process use it."""
    return bool(torch.cpu._is_amx_tile_supported() and torch.cpu._init_amx())


def native() -> ctypes.CDLL | None:
    """Return the library for this processor, or None: there is none, or it does not load."""
    return _load()[1]


def native_name() -> str:
    """Return which library is used, "avx2" for example, or "none"."""
    return _load()[0]


@cache
def _load() -> tuple[str, ctypes.CDLL | None]:
    for key in candidates():
        library = open_library(Path(__file__).with_name(file_name(key)))
        if library is not None:
            return key, library
    return "none", None


def open_library(path: Path) -> ctypes.CDLL | None:
    """Return the library in a file; None if there is none, or it is of other sources."""
    if not path.exists():
        return None
    try:
        library = ctypes.CDLL(str(path))
    except OSError:  # built for another system
        return None
    if not _is_of_these_sources(library):
        warnings.warn(
            f"{path.name}: compiled from other sources, and not used; run "
            f"`python -m spikediff.native.build`",
            stacklevel=2,
        )
        return None
    library.neuron_backward.restype = ctypes.c_double
    library.neuron_forward_packed.restype = ctypes.c_int64
    library.synapse_pack.restype = ctypes.c_int64
    library.integer_network_bytes.restype = ctypes.c_int64
    return library


def _is_of_these_sources(library: ctypes.CDLL) -> bool:
    """Return whether a library's fingerprint is that of these sources."""
    try:
        theirs = library.spikediff_fingerprint
    except AttributeError:
        return False
    theirs.restype = ctypes.c_uint32
    return bool(theirs() == fingerprint())


def library_of() -> ctypes.CDLL:
    """Return the library.

    Raises:
        UserError: There is none.
    """
    library = native()
    if library is None:
        raise UserError(
            "the compiled kernels are not there: install a C compiler and run "
            "`python -m spikediff.native.build`"
        )
    return library


def pointer(x: torch.Tensor | None) -> ctypes.c_void_p:
    """Return where a tensor's numbers lie; NULL for None.

    The tensor lives as long as the pointer, so that it may be a temporary one.

    Raises:
        UserError: The numbers do not lie in the memory of the CPU as they are.
    """
    if x is None:
        return ctypes.c_void_p(None)
    if x.device.type != "cpu" or x.layout != torch.strided or x.is_neg() or x.is_conj():
        raise UserError(
            f"the compiled kernels take dense tensors on the CPU, not {x.layout} on {x.device}"
            f"{' that are views of others' if x.is_neg() or x.is_conj() else ''}"
        )
    address = ctypes.c_void_p(x.data_ptr())
    address.tensor = x  # type: ignore[attr-defined]
    return address


def check_tensor(x: Any, what: str, dtype: torch.dtype, shape: Sequence[int | None]) -> None:
    """Refuse what a compiled kernel would misread; `what` names it in the message.

    None in `shape` accepts any size.
    """
    if not isinstance(x, torch.Tensor):
        raise UserError(f"{what}: must be a tensor, not {shown(x)}")
    fits = x.dim() == len(shape) and all(
        want in (None, size) for want, size in zip(shape, x.shape, strict=True)
    )
    if not fits or x.dtype != dtype or x.device.type != "cpu" or x.layout != torch.strided:
        wanted = ", ".join("?" if size is None else str(size) for size in shape)
        raise UserError(
            f"{what}: must be {dtype} [{wanted}] on the CPU, not {x.dtype} {list(x.shape)} on "
            f"{x.device}"
        )
