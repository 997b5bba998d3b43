"""How a training step is computed: device, precision, and stored activations."""

import ctypes
import logging
import platform
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import LoggerType
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from spikediff.errors import UserError, check_known
from spikediff.events import train_event_driven
from spikediff.native import WORD, native, pointer
from spikediff.training.recipe import Recipe, TrainingRecipe

Precision = Literal["no", "fp16", "bf16"]

_log = logging.getLogger("spikediff")
_BF16_FLAGS = ("avx512_bf16", "amx_bf16")
_SMALLEST = 4096  # values; for smaller tensors the overhead exceeds the savings
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
# By the bytes of a value: the type that holds its bit pattern in bits.c.
_PATTERNS: dict[int, Any] = {4: ctypes.c_uint32, 2: ctypes.c_uint16}
# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _LARGEST = -1, -3, 2**31 - 1


def make_accelerator(recipe: Recipe, root: Path) -> Accelerator:
    """Return the `Accelerator` of a run.

    Refuse cases that accelerate only warns about: a tracker that is not installed, or an
    environment variable that scales gradients.
    """
    wanted = recipe.training.trackers
    known = [kind.value for kind in LoggerType if kind != LoggerType.ALL]
    for name in wanted:
        check_known("tracker", name, known, "training.trackers: ")
    AcceleratorState._reset_state()  # an earlier run of this process may have another precision
    try:
        with warnings.catch_warnings(action="ignore"):
            accelerator = Accelerator(
                cpu=device_kind() == "cpu",  # without it, CPU processes would not find one another
                mixed_precision=recipe.training.mixed_precision,
                log_with=list(wanted) or None,
                project_dir=str(root),
            )
    except ValueError as error:
        raise UserError(f"accelerate: {error}") from error
    accelerator.wait_for_everyone()  # none may refuse and exit while others still connect
    if accelerator.gradient_accumulation_steps != 1:
        raise UserError(
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS in the environment would divide every gradient "
            "once more; unset it, and set optimizer.gradient_accumulation_steps in the recipe"
        )
    for name in wanted:
        if name not in [tracker.value for tracker in accelerator.log_with]:
            raise UserError(f"training.trackers: {name} is not installed; pip install {name}")
    processes, size = accelerator.num_processes, recipe.data.batch_size
    parts = processes * recipe.optimizer.gradient_accumulation_steps
    if size < 1 or size % parts:
        raise UserError(
            f"data.batch_size = {size} must be a positive multiple of {parts} "
            f"({processes} processes times optimizer.gradient_accumulation_steps)"
        )
    return accelerator


def device_kind() -> str:
    """Return "cuda" if there is an accelerator, else "cpu"."""
    return "cuda" if torch.accelerator.is_available() else "cpu"


def usable_precision(mixed_precision: Precision, device: str) -> Precision:
    """Return the requested training precision, or "no" with a warning if that is faster.

    A CPU without units for a precision emulates it, far more slowly than float32.
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
    """Return whether the CPU multiplies in bf16; True if the system does not report it."""
    if platform.machine() not in ("x86_64", "AMD64") or not cpuinfo.is_file():
        return True
    flags = cpuinfo.read_text().split()
    return any(flag in flags for flag in _BF16_FLAGS)


def prepare_computation(model: nn.Module, recipe: TrainingRecipe, device: torch.device) -> None:
    """Set up a model for training, in place; the names and values of its weights do not change."""
    network, kind = cast(Any, model), type(model).__name__
    steps = network.config.get("spiking_steps")  # an ordinary network has none
    in_float32 = device.type == "cpu" and recipe.mixed_precision == "no"
    if recipe.event_driven and not steps:
        _log.warning("training.event_driven has no effect: %s emits no binary spikes", kind)
    if recipe.event_driven and in_float32 and steps:
        _channels_last(model)
        train_event_driven(model, steps)
    if recipe.keep_large_tensors and not keep_large_tensors():
        _log.info("training.keep_large_tensors: this system's C library has no such switch")
    if recipe.gradient_checkpointing:
        if network._supports_gradient_checkpointing:
            network.enable_gradient_checkpointing()
        else:
            _log.warning("training.gradient_checkpointing has no effect: %s has no blocks", kind)
    if recipe.compile:
        _channels_last(model)
        model.compile(dynamic=False)  # in place: the names of the weights stay


def keep_large_tensors() -> bool:
    """Let glibc keep freed memory for the next tensor, for the rest of the process.

    glibc gives a tensor above 32 MiB pages of its own and hands them back when it is freed, so that
    every such tensor is paid for with page faults when it is first written. Kept memory is not
    returned to the system, which is why this is for the user to ask for.

    Returns:
        Whether it is done; not on systems without glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl has none
        return False
    done = [mallopt(option, _LARGEST) for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD)]
    return all(done)


def _channels_last(model: nn.Module) -> None:
    """Store kernels channels-last; torch's own function fails on factors [T, 1, 1, 1, 1]."""
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def keeping_activations(recipe: TrainingRecipe) -> AbstractContextManager[None]:
    """Return a context manager for the forward pass that decides how activations are stored."""
    compress = recipe.compress_activations and not recipe.compile
    return compressed_activations() if compress else nullcontext()


@contextmanager
def compressed_activations() -> Iterator[None]:
    """Store the spikes that autograd saves in a forward pass as one bit each.

    This applies to CPU tensors, float32 or half precision, that hold only 0 and one other value
    (spikes, perhaps scaled by dropout). They take 32 times less memory in float32 and are restored
    bit for bit. Other tensors are saved unchanged; the check reads them up to the first third
    value. Without the compiled kernels, or on a GPU, nothing changes.

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


@dataclass(frozen=True)
class _Bits:
    """A tensor that holds 0 and one other value, as bits in memory order."""

    words: Tensor  # int64 [ceil(n / 64)]
    one: Any  # the other value's bit pattern
    like: Tensor  # type, shape and strides, without memory


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


def _can_hold_spikes(x: Tensor) -> bool:
    """Return whether a saved tensor may be binary and is dense in memory."""
    return (
        x.device.type == "cpu"
        and x.dtype in _FLOATS
        and x.numel() >= _SMALLEST
        and not x.is_neg()  # the memory of such a view holds other values
        and not isinstance(x, torch.nn.Parameter)
        and torch.empty_like(x, device="meta").stride() == x.stride()
    )


def _unpack(saved: Tensor | _Bits) -> Tensor:
    if isinstance(saved, Tensor):
        return saved
    like = saved.like
    x = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype)
    unpack = getattr(native(), f"bits_unpack_{8 * x.element_size()}")
    threads = ctypes.c_int(torch.get_num_threads())
    unpack(pointer(saved.words), pointer(x), ctypes.c_int64(x.numel()), saved.one, threads)
    return x
