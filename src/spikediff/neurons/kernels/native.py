"""The scan over spiking steps in C (`spikediff/native/neuron.c`): float32 on a CPU.

Spikes have the bits of `reference`. The backward pass charges the membranes again, so that only the
currents are kept for it.
"""

from collections.abc import Sequence
from ctypes import byref, c_int, c_int64

import torch
from torch import Tensor

from spikediff.errors import UserError
from spikediff.native import WORD, NeuronOptions, check_tensor, library_of, native, pointer
from spikediff.neurons.dynamics import Decay, Dynamics, is_fused
from spikediff.neurons.kernels.layout import in_step_order, laid_out_as
from spikediff.neurons.surrogate import ATan, Rectangular, Sigmoid, Surrogate, Triangular

MAX_STEPS = 128  # as in spikediff.h
HALF_TYPES = (torch.float16, torch.bfloat16)


def suits(current: Tensor, dynamics: Dynamics) -> bool:
    """See `Kernel`."""
    return (
        current.device.type == "cpu"
        and (current.dtype == torch.float32 or current.dtype in HALF_TYPES)
        and dynamics.v_negative is None
        and len(current) <= MAX_STEPS
        and _surrogate(dynamics.surrogate) is not None
        and native() is not None
    )


def forward(
    current: Tensor,
    decay: Decay,
    dynamics: Dynamics,
    v_first: Tensor | None = None,
    keep_last: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """See `Kernel`."""
    _check_window(current, "current")
    x = in_step_order(current.detach().float().resolve_neg())
    if v_first is not None and v_first.shape != x.shape[1:]:
        raise UserError(f"neuron: v_first {list(v_first.shape)} is no state of {list(x.shape)}")
    spikes, v_last = torch.empty_like(x), torch.empty_like(x[0]) if keep_last else None
    first = None if v_first is None else torch.empty_like(x[0]).copy_(v_first)
    library_of().neuron_forward(
        pointer(x),
        pointer(spikes),
        pointer(first),
        pointer(v_last),
        c_int64(len(x)),
        c_int64(x[0].numel()),
        byref(options(decay, dynamics)),
        c_int(torch.get_num_threads()),
    )
    return spikes.to(current.dtype), v_last


def backward(
    current: Tensor, grad_spikes: Tensor, decay: Decay, dynamics: Dynamics, with_decay: bool
) -> tuple[Tensor, Tensor]:
    """See `Kernel`; dL/d(decay) is float64."""
    _check_window(current, "current")
    if len(current) > MAX_STEPS:
        raise UserError(f"neuron: the backward pass takes {MAX_STEPS} steps, not {len(current)}")
    _check_window(grad_spikes, "grad_spikes", current.shape)
    x = in_step_order(current.detach().float().resolve_neg())
    above = laid_out_as(grad_spikes.detach().float().resolve_neg(), x)
    grad = torch.empty_like(x)
    grad_decay = library_of().neuron_backward(
        pointer(x),
        pointer(above),
        pointer(grad),
        c_int64(len(x)),
        c_int64(x[0].numel()),
        byref(options(decay, dynamics)),
        c_int(with_decay),
        c_int(torch.get_num_threads()),
    )
    return grad.to(current.dtype), torch.tensor(grad_decay, dtype=torch.float64)


def forward_packed(current: Tensor, words: Tensor, decay: Decay, dynamics: Dynamics) -> int:
    """Write the spikes of a window from rest as bits over channels.

    Currents are [T, pixels, C], float32; words int64 [T, pixels, ceil(C / 64)]; both contiguous.

    Returns:
        How many channels of a pixel fire at all, summed over pixels and groups of four steps; -1
        where a membrane is not finite.
    """
    check_tensor(current, "neuron: current", torch.float32, (None, None, None))
    steps, pixels, channels = current.shape
    check_tensor(words, "neuron: words", torch.int64, (None,) * words.dim())
    if words.numel() != steps * pixels * -(-channels // WORD):
        raise UserError(f"neuron: words {list(words.shape)} do not hold {list(current.shape)}")
    if not words.is_contiguous() or not current.is_contiguous():
        raise UserError("neuron: currents and words must be contiguous")
    active: int = library_of().neuron_forward_packed(
        pointer(current),
        pointer(words),
        c_int64(steps),
        c_int64(pixels),
        c_int64(channels),
        byref(options(decay, dynamics)),
        c_int(torch.get_num_threads()),
    )
    return active


def _check_window(x: Tensor, what: str, shape: Sequence[int] | None = None) -> None:
    """Refuse what is no window of currents, or one of another shape."""
    window = x.dim() > 0 and len(x) > 0 and x.is_floating_point()
    window = window and x.layout == torch.strided and x.device.type == "cpu"
    if not window or x.shape != (shape or x.shape):
        wanted = "[T, ...]" if shape is None else f"{list(shape)}"
        raise UserError(
            f"neuron: {what} must be real {wanted} on the CPU, not {x.dtype} {list(x.shape)}"
        )


def options(decay: Decay, dynamics: Dynamics) -> NeuronOptions:
    """Return a neuron's constants as C has them; it rounds a charge as `dynamics.charge` does."""
    fused = is_fused(decay, dynamics)
    decay = float(decay)
    kind, width, height, centre = _surrogate(dynamics.surrogate) or (0, 1.0, 1.0, 0.0)
    rest = dynamics.v_rest
    return NeuronOptions(
        decay=decay,
        gain=1.0 - decay if dynamics.decay_input else 1.0,
        rest=rest,
        threshold=dynamics.v_threshold,
        reset=dynamics.v_reset or 0.0,
        v_init=rest if dynamics.v_init is None else dynamics.v_init,
        width=width,
        height=height,
        centre=centre,
        soft=dynamics.v_reset is None,
        strict=dynamics.strict_threshold,
        detach_reset=dynamics.detach_reset,
        decay_input=dynamics.decay_input,
        fused=fused,
        surrogate=kind,
    )


def _surrogate(surrogate: Surrogate) -> tuple[int, float, float, float] | None:
    """Return number, width, height and centre as C has them; None for one that it has not."""
    match surrogate:
        case ATan(alpha):
            return 0, alpha, 1.0, 0.0
        case Sigmoid(alpha):
            return 1, alpha, 1.0, 0.0
        case Rectangular(width, center):
            return 2, width, 1.0 / width, center
        case Triangular(half_width, height):
            return 3, half_width, height, 0.0
        case _:
            return None
