"""The leaky integrate-and-fire neuron."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from spikediff.errors import UserError
from spikediff.neurons.dynamics import Dynamics
from spikediff.neurons.layer import NeuronLayer
from spikediff.neurons.scan import window
from spikediff.neurons.surrogate import Surrogate, make_surrogate


def decay_of(tau: float | None, decay: float | None) -> float:
    """Return the membrane multiplier `1 - 1/tau` of a time constant, or the one given.

    Args:
        tau: Membrane time constant in spiking steps, at least 1; None means 2.0.
        decay: The multiplier itself, in [0, 1]; excludes `tau`.

    Raises:
        UserError: Both are given, or the value lies outside its range.

    Example:
        >>> decay_of(tau=5.0, decay=None)
        0.8
    """
    if decay is not None and tau is not None:
        raise UserError(f"LIF: give tau = {tau} or decay = {decay}, not both")
    if decay is not None:
        if not 0.0 <= decay <= 1.0:
            raise UserError(f"LIF: decay = {decay} must lie in [0, 1]")
        return float(decay)
    tau = 2.0 if tau is None else tau
    if not tau >= 1.0:
        raise UserError(f"LIF: tau = {tau} must be at least 1 spiking step")
    return 1.0 - 1.0 / tau


def leaky_integrate_and_fire(
    current: Tensor, decay: float = 0.5, dynamics: Dynamics | None = None
) -> Tensor:
    """Return the spikes [T, ...] of a fresh LIF layer for the currents [T, ...].

    Example:
        >>> import torch
        >>> leaky_integrate_and_fire(torch.tensor([0.6, 0.6, 0.6])).tolist()
        [0.0, 0.0, 1.0]
    """
    return window(current, dynamics or Dynamics(), decay)


class LIF(NeuronLayer):
    """A layer of leaky neurons: `u[n] = v_rest + decay (v[n-1] - v_rest) + gain I[n]`.

    `decay = 1 - 1/tau`; `gain = 1/tau` with `decay_input`, else 1.

    Args:
        v_threshold: Firing threshold; fires at `u >= v_threshold`.
        v_reset: Potential after a spike; None for the soft reset (`u - v_threshold`).
        surrogate: Name, mapping or object; see `make_surrogate`.
        detach_reset: Whether the gradient ignores the path through the reset.
        tau: Membrane time constant in spiking steps; 2.0 where neither it nor decay is given.
        decay: The multiplier instead of the time constant.
        decay_input: Whether the input is scaled by `1/tau` too.
        v_init: Membrane of a fresh neuron; None stands for the rest potential.
        strict_threshold: Whether it fires at `u > v_threshold` only (FSVAE, FSDDIM).

    Raises:
        UserError: `tau` and `decay` are both given, or out of range.

    Example:
        >>> import torch
        >>> LIF(tau=2.0)(torch.tensor([1.5, 1.5, 1.5])).tolist()
        [0.0, 1.0, 0.0]
    """

    def __init__(
        self,
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        surrogate: str | Mapping[str, Any] | Surrogate = "atan",
        detach_reset: bool = False,
        tau: float | None = None,
        decay: float | None = None,
        decay_input: bool = True,
        v_init: float | None = None,
        strict_threshold: bool = False,
    ) -> None:
        super().__init__(
            Dynamics(
                v_threshold,
                v_reset,
                v_init,
                make_surrogate(surrogate),
                detach_reset,
                decay_input,
                strict_threshold=strict_threshold,
            )
        )
        self._decay = decay_of(tau, decay)

    @property
    def decay(self) -> float:
        """`1 - 1/tau`."""
        return self._decay
