"""What a training step keeps for its backward pass: spikes as bits."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from spikediff.native import WORD, native, pointer

SMALLEST = 4096  # values; below it the bookkeeping costs more than the bits save

# By the bytes of a value: the two functions of bits.c, and the type that holds its pattern.
_PATTERNS: dict[int, Any] = {4: ctypes.c_uint32, 2: ctypes.c_uint16}
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class _Bits:
    """A tensor of the values 0 and one other: its bits in the order of memory.

    Attributes:
        words: int64 [ceil(n / 64)].
        one: The other value's bit pattern.
        like: Type, shape and strides of the tensor, on a tensor without memory.
    """

    words: Tensor
    one: Any
    like: Tensor


@contextmanager
def compressed_activations() -> Iterator[None]:
    """Save the spikes of a forward pass as one bit each, wherever autograd saves them.

    Whatever layer saves a tensor whose values are all 0 or one other value (spikes, or spikes that
    dropout has scaled), float32 or half precision, on the CPU, saves it 32 times smaller; it comes
    back bit for bit in the backward pass. Any other tensor is saved as it is; looking costs the
    time of reading it up to its first value of a third kind. Without the compiled kernels, or on a
    GPU, nothing is changed.

    Example:
        >>> x = (torch.rand(1, 8, 32, 32) < 0.2).float()
        >>> weight = torch.randn(8, 8, 3, 3, requires_grad=True)
        >>> with compressed_activations():
        ...     y = torch.nn.functional.conv2d(x, weight)
        >>> y.sum().backward()  # reads the bits
    """
    if native() is None:
        yield
        return
    with saved_tensors_hooks(_pack, _unpack):
        yield


def _pack(x: Tensor) -> Tensor | _Bits:
    if not _can_hold_spikes(x):
        return x
    n = x.numel()
    words = torch.empty(-(-n // WORD), dtype=torch.int64)
    one = _PATTERNS[x.element_size()]()
    pack = getattr(native(), f"bits_pack_{8 * x.element_size()}")
    threads = ctypes.c_int(torch.get_num_threads())
    if not pack(pointer(x), pointer(words), ctypes.c_int64(n), ctypes.byref(one), threads):
        return x
    return _Bits(words, one, x.new_empty(0, device="meta").as_strided(x.shape, x.stride()))


def _unpack(saved: Tensor | _Bits) -> Tensor:
    if isinstance(saved, Tensor):
        return saved
    like = saved.like
    x = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype)
    unpack = getattr(native(), f"bits_unpack_{8 * x.element_size()}")
    threads = ctypes.c_int(torch.get_num_threads())
    unpack(pointer(saved.words), pointer(x), ctypes.c_int64(x.numel()), saved.one, threads)
    return x


def _can_hold_spikes(x: Tensor) -> bool:
    """Return whether a saved tensor may be binary, and lies in memory without holes."""
    return (
        x.device.type == "cpu"
        and x.dtype in _FLOATS
        and x.numel() >= SMALLEST
        and not x.is_neg()  # such a view's memory holds other numbers
        and not isinstance(x, torch.nn.Parameter)
        and torch.empty_like(x, device="meta").stride() == x.stride()
    )
