"""The integrate-and-fire neuron: no leak."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from spikediff.neurons.dynamics import Dynamics
from spikediff.neurons.layer import NeuronLayer
from spikediff.neurons.scan import window
from spikediff.neurons.surrogate import Surrogate, make_surrogate


def integrate_and_fire(current: Tensor, dynamics: Dynamics | None = None) -> Tensor:
    """Return the spikes [T, ...] of a fresh IF layer for the currents [T, ...].

    Example:
        >>> import torch
        >>> integrate_and_fire(torch.tensor([0.5, 0.5, 0.5, 0.5])).tolist()
        [0.0, 1.0, 0.0, 1.0]
    """
    return window(current, dynamics or Dynamics())


class IF(NeuronLayer):
    """A layer of integrate-and-fire neurons: `u[n] = v[n-1] + I[n]` (SDDPM's neuron).

    Args:
        v_threshold: Firing threshold; fires at `u >= v_threshold`.
        v_reset: Potential after a spike; None for the soft reset (`u - v_threshold`).
        surrogate: Name, mapping or object; see `make_surrogate`.
        detach_reset: Whether the gradient ignores the path through the reset.
        v_init: Membrane of a fresh neuron; None stands for the rest potential.

    Example:
        >>> import torch
        >>> IF()(torch.tensor([0.5, 0.5, 2.0])).tolist()
        [0.0, 1.0, 1.0]

    Reference: Cao et al., "Spiking denoising diffusion probabilistic models", WACV 2024.
    """

    def __init__(
        self,
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        surrogate: str | Mapping[str, Any] | Surrogate = "atan",
        detach_reset: bool = False,
        v_init: float | None = None,
    ) -> None:
        super().__init__(
            Dynamics(v_threshold, v_reset, v_init, make_surrogate(surrogate), detach_reset)
        )

    @property
    def decay(self) -> float:
        """No leak."""
        return 1.0
