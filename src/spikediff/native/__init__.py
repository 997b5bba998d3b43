"""The C kernels: sources, build, and the loader. What they compute is defined in plain torch."""

from spikediff.native.allocator import keep_large_tensors
from spikediff.native.library import (
    WORD,
    NeuronOptions,
    check_tensor,
    library_of,
    native,
    native_name,
    pointer,
)

__all__ = [
    "WORD",
    "NeuronOptions",
    "check_tensor",
    "keep_large_tensors",
    "library_of",
    "native",
    "native_name",
    "pointer",
]
