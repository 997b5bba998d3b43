"""The scan over spiking steps in Triton (`triton_programs.py`): CUDA, and membranes in float32.

Currents are float32, bfloat16 or float16. Spikes are those of `reference` on the same device: every
operation rounds as torch's CUDA kernels do. The backward pass charges the membranes again, in
registers, so that only the currents are kept for it.

Tests run the programs without a GPU, in Triton's interpreter, which `TRITON_INTERPRET=1` selects
before Triton is imported.
"""

import math
import os
from functools import cache
from typing import Any

import torch
from torch import Tensor

from spikediff.neurons.dynamics import Decay, Dynamics, is_fused
from spikediff.neurons.kernels.layout import in_step_order, laid_out_as
from spikediff.neurons.surrogate import ATan, Rectangular, Sigmoid, Surrogate, Triangular

MAX_STEPS = 32  # a window's membranes fit into registers; longer ones are the reference's
TYPES = (torch.float32, torch.bfloat16, torch.float16)
WARPS = 4
OLDEST_GPU = (7, 0)  # compute capability that Triton compiles for
OLDEST_TRITON = (3, 3)  # has tuples


def suits(current: Tensor, dynamics: Dynamics) -> bool:
    """See `Kernel`."""
    return (
        _is_reachable(current.device)
        and current.dtype in TYPES
        and dynamics.v_negative is None
        and len(current) <= MAX_STEPS
        and _surrogate(dynamics.surrogate) is not None
        and _programs() is not None
    )


def forward(
    current: Tensor,
    decay: Decay,
    dynamics: Dynamics,
    v_first: Tensor | None = None,
    keep_last: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """See `Kernel`; a decay that is a tensor stays on its device."""
    x = in_step_order(current.detach())
    spikes, step = torch.empty_like(x), x[0]
    first, last = None, None
    if v_first is not None:
        first = torch.empty_like(step, dtype=torch.float32).copy_(v_first.detach())
    if keep_last:
        last = torch.empty_like(step, dtype=torch.float32)
    block = _block(len(x))
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        _programs().forward[(-(-step.numel() // block),)](
            x,
            spikes,
            x if first is None else first,  # a pointer that is not read, or not written
            spikes if last is None else last,
            step.numel(),
            **_constants(x, decay, dynamics),
            FROM_REST=first is None,
            KEEP_LAST=keep_last,
            BLOCK=block,
        )
    return spikes, last


def backward(
    current: Tensor, grad_spikes: Tensor, decay: Decay, dynamics: Dynamics, with_decay: bool
) -> tuple[Tensor, Tensor]:
    """See `Kernel`; dL/d(decay) is float64."""
    x = in_step_order(current.detach())
    above = laid_out_as(grad_spikes.detach(), x)
    grad = torch.empty_like(x)
    size, block = x[0].numel(), _block(len(x))
    programs = -(-size // block)
    shares = x.new_zeros(programs if with_decay else 1, dtype=torch.float32)
    kind, width, height, centre = _surrogate(dynamics.surrogate) or ("", 1.0, 1.0, 0.0)
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        _programs().backward[(programs,)](
            x,
            above,
            grad,
            shares,
            size,
            width=width,
            height=height,
            centre=centre,
            **_constants(x, decay, dynamics),
            DETACH_RESET=dynamics.detach_reset,
            SURROGATE=kind,
            WITH_DECAY=with_decay,
            BLOCK=block,
        )
    return grad, shares.sum(dtype=torch.float64)


def _constants(x: Tensor, decay: Decay, dynamics: Dynamics) -> dict[str, Any]:
    """Return a neuron's constants as the programs take them, and how these are compiled."""
    fused, learnt, gain = is_fused(decay, dynamics), isinstance(decay, Tensor), 1.0
    if isinstance(decay, Tensor):
        decay = decay.detach().to(x.device, torch.float32)
    else:
        decay = float(decay)
        gain = 1.0 - decay if dynamics.decay_input else 1.0
    return {
        "decay": decay,
        "gain": gain,
        "rest": float(dynamics.v_rest),
        "threshold": float(dynamics.v_threshold),
        "v_reset": float(dynamics.v_reset or 0.0),
        "v_init": float(dynamics.v_rest if dynamics.v_init is None else dynamics.v_init),
        "STEPS": len(x),
        "LEARNT": learnt,
        "DECAY_INPUT": dynamics.decay_input,
        "FUSED": fused,
        "SOFT": dynamics.v_reset is None,
        "STRICT": dynamics.strict_threshold,
        "num_warps": WARPS,
        "enable_fp_fusion": False,
    }


def _surrogate(surrogate: Surrogate) -> tuple[str, float, float, float] | None:
    """Return name, width, height and centre as the programs have them; None for an unknown one."""
    match surrogate:
        case ATan(alpha):
            return "atan", math.pi / 2 * alpha, alpha / 2, 0.0
        case Sigmoid(alpha):
            return "sigmoid", float(alpha), float(alpha), 0.0
        case Rectangular(width, center):
            return "rectangular", width / 2, 1.0 / width, float(center)
        case Triangular(half_width, height):
            return "triangular", 1.0 / half_width, float(height), 0.0
        case _:
            return None


def _block(steps: int) -> int:
    """Return the neurons of a program: a thread has 64 membranes at the most, of 8 neurons."""
    return 32 * WARPS * (8 if steps <= 8 else 64 // (1 << (steps - 1).bit_length()))


def _is_reachable(device: torch.device) -> bool:
    if os.environ.get("TRITON_INTERPRET") == "1":
        return device.type in ("cpu", "cuda")
    return device.type == "cuda" and _compiles_for(device)


@cache
def _compiles_for(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= OLDEST_GPU


@cache
def _programs() -> Any:
    """Return the module of the programs; None if there is no Triton, or one too old."""
    try:
        import triton

        if tuple(int(part) for part in triton.__version__.split(".")[:2]) < OLDEST_TRITON:
            return None
        from spikediff.neurons.kernels import triton_programs
    except ImportError:
        return None
    return triton_programs
