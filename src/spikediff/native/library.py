"""Load the compiled kernels that suit this processor, if there are any."""

import ctypes
import os
import platform
import warnings
from functools import cache
from pathlib import Path

import torch

from spikediff.errors import UserError
from spikediff.native.build import file_name, fingerprint

VARIABLE = "SPIKEDIFF_NATIVE"
CAPABILITIES = {"AVX512": ("avx512", "avx2", "baseline"), "AVX2": ("avx2", "baseline")}


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
    """Return the keys of the libraries that run here, the fastest first.

    `SPIKEDIFF_NATIVE` names one instead, or "none" to go without.
    """
    if wanted := os.environ.get(VARIABLE):
        return () if wanted == "none" else (wanted,)
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return ("baseline",)
    return CAPABILITIES.get(torch.backends.cpu.get_cpu_capability(), ("baseline",))


@cache
def native() -> ctypes.CDLL | None:
    """Return the library for this processor, or None: there is none, or it does not load."""
    return _load()[1]


def native_name() -> str:
    """Return which library is used, "avx2" for example, or "none"."""
    return _load()[0]


@cache
def _load() -> tuple[str, ctypes.CDLL | None]:
    for key in candidates():
        path = Path(__file__).with_name(file_name(key))
        if not path.exists():
            continue
        try:
            library = ctypes.CDLL(str(path))
        except OSError:  # built for another system
            continue
        if not _is_of_these_sources(library):
            warnings.warn(
                f"{path.name}: compiled from other sources, and not used; run "
                f"`python -m spikediff.native.build`",
                stacklevel=2,
            )
            continue
        library.neuron_backward.restype = ctypes.c_double
        library.neuron_forward_packed.restype = ctypes.c_int64
        library.synapse_pack.restype = ctypes.c_int64
        return key, library
    return "none", None


def _is_of_these_sources(library: ctypes.CDLL) -> bool:
    """Return whether the arguments are those that we give."""
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
    """Return where a tensor's numbers lie; NULL for None."""
    return ctypes.c_void_p(None if x is None else x.data_ptr())
