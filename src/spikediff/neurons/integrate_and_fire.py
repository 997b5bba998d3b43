"""The integrate-and-fire neuron: no leak."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from spikediff.neurons.dynamics import Dynamics, NeuronState
from spikediff.neurons.scan import scan
from spikediff.neurons.surrogate import Surrogate, make_surrogate


def integrate_and_fire(current: Tensor, dynamics: Dynamics | None = None) -> Tensor:
    """Return the spikes [T, ...] of a fresh IF layer for the currents [T, ...].

    Example:
        >>> import torch
        >>> integrate_and_fire(torch.tensor([0.5, 0.5, 0.5, 0.5])).tolist()
        [0.0, 1.0, 0.0, 1.0]
    """
    return scan(current, dynamics or Dynamics())[0]


class IF(nn.Module):
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
        super().__init__()
        self.dynamics = Dynamics(
            v_threshold, v_reset, v_init, make_surrogate(surrogate), detach_reset
        )

    def forward(self, current: Tensor) -> Tensor:
        """Return the spikes [T, ...] for the currents [T, ...] of one window, from rest."""
        return scan(current, self.dynamics)[0]

    def step(self, current: Tensor, state: NeuronState | None = None) -> tuple[Tensor, NeuronState]:
        """Return the spike and the state after one step, for a current [...]; None starts fresh."""
        spikes, state = scan(current[None], self.dynamics, state=state)
        return spikes[0], state

    def extra_repr(self) -> str:
        """Return the constants, for `print(model)`."""
        return repr(self.dynamics)
