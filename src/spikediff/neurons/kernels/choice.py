"""Which kernel runs: the fastest that suits, or the one that a test asks for."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

from spikediff.errors import UserError, suggestion
from spikediff.neurons.dynamics import Dynamics
from spikediff.neurons.kernels import native

KERNELS = ("reference", "native")
_forced: ContextVar[str | None] = ContextVar("spikediff_kernel", default=None)


@contextmanager
def using(kernel: str) -> Iterator[None]:
    """Run the neurons by one kernel only, in this thread.

    Args:
        kernel: One of `KERNELS`: "reference" is plain torch, "native" the compiled C.

    Raises:
        UserError: There is no such kernel. A neuron that "native" cannot compute raises, too.

    Example:
        >>> import torch
        >>> from spikediff.neurons import IF
        >>> with using("reference"):
        ...     IF()(torch.tensor([0.5, 0.5])).tolist()
        [0.0, 1.0]
    """
    if kernel not in KERNELS:
        raise UserError(f"kernel {kernel!r}: unknown; {suggestion(kernel, KERNELS)}")
    token = _forced.set(kernel)
    try:
        yield
    finally:
        _forced.reset(token)


def kernel_for(current: Tensor, dynamics: Dynamics) -> str:
    """Return the kernel that computes these currents.

    Raises:
        UserError: `using("native")` holds, and the C kernel is not there or does not suit.
    """
    forced = _forced.get()
    if forced == "reference":
        return forced
    if native.suits(current, dynamics):
        return "native"
    if forced == "native":
        raise UserError(
            f"native kernel: it is not built, or does not compute {current.dtype} of "
            f"{dynamics!r} on {current.device.type}"
        )
    return "reference"
