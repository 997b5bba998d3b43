"""How a training step is computed: on which device, in which precision, and what is kept for it."""

import ctypes
import logging
import platform
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from spikediff.errors import UserError
from spikediff.events import train_event_driven
from spikediff.layers.recomputation import set_recomputation
from spikediff.native import WORD, keep_large_tensors, native, pointer
from spikediff.training.recipe import Recipe, TrainingRecipe

Precision = Literal["no", "fp16", "bf16"]

_log = logging.getLogger("spikediff")
_BF16_FLAGS = ("avx512_bf16", "amx_bf16")
_SMALLEST = 4096  # values; below it the bookkeeping costs more than the bits save
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
# By the bytes of a value: the type that holds its pattern in bits.c.
_PATTERNS: dict[int, Any] = {4: ctypes.c_uint32, 2: ctypes.c_uint16}


def make_accelerator(recipe: Recipe, root: Path) -> Accelerator:
    """Return the engine of a run.

    Refuse what accelerate only warns about: a tracker that is not installed, an environment that
    scales gradients.
    """
    wanted = recipe.training.trackers
    try:
        with warnings.catch_warnings(action="ignore"):
            accelerator = Accelerator(
                cpu=device_kind() == "cpu",  # or processes without a GPU each believe to be alone
                mixed_precision=recipe.training.mixed_precision,
                log_with=list(wanted) or None,
                project_dir=str(root),
            )
    except ValueError as error:
        raise UserError(f"training.trackers = {list(wanted)}: {error}") from error
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
    """Return the precision to train in: as asked, or "no" with a warning if that is faster.

    A CPU without units for a precision emulates it, at a fraction of the speed of float32.
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
    """Return whether the CPU multiplies in bf16; True if the system does not say."""
    if platform.machine() not in ("x86_64", "AMD64") or not cpuinfo.is_file():
        return True
    flags = cpuinfo.read_text().split()
    return any(flag in flags for flag in _BF16_FLAGS)


def prepare_computation(model: nn.Module, recipe: TrainingRecipe, device: torch.device) -> None:
    """Set up a model for training, in place; names and values of its weights stay."""
    steps = cast(Any, model).config.get("spiking_steps")  # an ordinary network has none
    in_float32 = device.type == "cpu" and recipe.mixed_precision == "no"
    if recipe.event_driven and in_float32 and steps:
        _channels_last(model)
        train_event_driven(model, steps)
    if recipe.keep_large_tensors and not keep_large_tensors():
        _log.warning("training.keep_large_tensors: this system's C library has no such switch")
    if recipe.gradient_checkpointing:
        set_recomputation(model)
    if recipe.compile:
        _channels_last(model)
        model.compile(dynamic=False)  # in place: the names of the weights stay


def _channels_last(model: nn.Module) -> None:
    """Lay kernels out channels-last; torch's own way trips over factors [T, 1, 1, 1, 1]."""
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def keeping_activations(recipe: TrainingRecipe) -> AbstractContextManager[None]:
    """Return the context of a forward pass: how its activations are kept."""
    compress = recipe.compress_activations and not recipe.compile
    return compressed_activations() if compress else nullcontext()


@contextmanager
def compressed_activations() -> Iterator[None]:
    """Save the spikes of a forward pass as one bit each, wherever autograd saves them.

    A tensor on the CPU, float32 or half precision, whose values are all 0 or one other value
    (spikes, perhaps scaled by dropout) is saved 32 times smaller and restored bit for bit. Any
    other tensor is saved as it is; checking costs reading it up to its first value of a third kind.
    Without the compiled kernels, or on a GPU, nothing changes.

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
    """A tensor of the values 0 and one other, as bits in the order of memory."""

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
    """Return whether a saved tensor may be binary, and lies in memory without holes."""
    return (
        x.device.type == "cpu"
        and x.dtype in _FLOATS
        and x.numel() >= _SMALLEST
        and not x.is_neg()  # such a view's memory holds other numbers
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
