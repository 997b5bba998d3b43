"""Choice of the kernel: the fastest that fits, or the one that a test requests."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from torch import Tensor

from spikediff.errors import UserError, check_known
from spikediff.neurons.dynamics import Decay, Dynamics
from spikediff.neurons.kernels import native, triton_kernel


class Kernel(Protocol):
    """The interface of a compiled kernel: a module that computes windows of unsigned neurons.

    Currents are [T, ...]; half precision is computed in float32. `decay` multiplies the
    membrane, `dynamics` are the neuron's constants.
    """

    def suits(self, current: Tensor, dynamics: Dynamics) -> bool:
        """Return whether the kernel is available and computes this."""

    def forward(
        self,
        current: Tensor,
        decay: Decay,
        dynamics: Dynamics,
        v_first: Tensor | None = None,
        keep_last: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the spikes [T, ...] and the membrane after them [...], float32.

        `v_first` [...], float32, is the membrane before the first step; None starts from rest.
        Without `keep_last`, the membrane is None.
        """

    def backward(
        self,
        current: Tensor,
        grad_spikes: Tensor,
        decay: Decay,
        dynamics: Dynamics,
        with_decay: bool,
    ) -> tuple[Tensor, Tensor]:
        """Return dL/dI [T, ...] of a window from rest, and dL/d(decay), 0-dim.

        The membranes are recomputed from the currents. Without `with_decay` the second is 0.
        """


COMPILED: dict[str, Kernel] = {"native": native, "triton": triton_kernel}
KERNELS = ("reference", *COMPILED)
_forced: ContextVar[str | None] = ContextVar("spikediff_kernel", default=None)


@contextmanager
def using(kernel: str) -> Iterator[None]:
    """Run all neurons of this thread with one of the `KERNELS`.

    A neuron whose window the kernel does not compute raises a `UserError`.
    """
    check_known("kernel", kernel, KERNELS)
    with as_before(kernel):
        yield


def forced() -> str | None:
    """Return the kernel that `using` asks for; None if it is not in force."""
    return _forced.get()


@contextmanager
def as_before(kernel: str | None) -> Iterator[None]:
    """Choose as when `forced` returned this: a backward pass runs as its forward pass did."""
    token = _forced.set(kernel)
    try:
        yield
    finally:
        _forced.reset(token)


def kernel_for(current: Tensor, dynamics: Dynamics) -> str:
    """Return the kernel that computes these currents."""
    forced = _forced.get()
    if forced == "reference":
        return forced
    for name, kernel in COMPILED.items():
        if forced in (None, name) and kernel.suits(current, dynamics):
            return name
    if forced is not None:
        raise UserError(
            f"{forced} kernel: it is missing, or does not support {len(current)} steps of "
            f"{current.dtype} of {dynamics!r} on {current.device.type}"
        )
    return "reference"
