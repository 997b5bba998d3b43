"""The parametric leaky neuron: its time constant is learnt."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spikediff.errors import UserError
from spikediff.neurons.dynamics import Dynamics, NeuronState
from spikediff.neurons.scan import scan
from spikediff.neurons.surrogate import Surrogate, make_surrogate


class ParametricLIF(nn.Module):
    r"""A layer of leaky neurons that share one learnt time constant, $1/\tau = \sigma(w)$.

    The membrane follows `LIF`; the gradient reaches w through the decay (and, with
    `decay_input`, through the gain).

    Args:
        v_threshold: Firing threshold; fires at `u >= v_threshold`.
        v_reset: Potential after a spike; None for the soft reset (`u - v_threshold`).
        surrogate: Name, mapping or object; see `make_surrogate`.
        detach_reset: Whether the gradient ignores the path through the reset.
        init_tau: Time constant before training, in spiking steps, above 1.
        decay_input: Whether the input is scaled by `1/tau` too.
        v_init: Membrane of a fresh neuron; None stands for the rest potential.

    Raises:
        UserError: `init_tau` is not above 1.

    Example:
        >>> neuron = ParametricLIF(init_tau=2.0)
        >>> neuron(torch.tensor([1.5, 1.5, 1.5])).tolist()
        [0.0, 1.0, 0.0]

    Reference: Fang et al., "Incorporating learnable membrane time constant", ICCV 2021.
    """

    def __init__(
        self,
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        surrogate: str | Mapping[str, Any] | Surrogate = "atan",
        detach_reset: bool = False,
        init_tau: float = 2.0,
        decay_input: bool = True,
        v_init: float | None = None,
    ) -> None:
        super().__init__()
        if not init_tau > 1.0:
            raise UserError(f"ParametricLIF: init_tau = {init_tau} must be above 1 spiking step")
        self.w = nn.Parameter(torch.tensor(-math.log(init_tau - 1.0)))
        self.dynamics = Dynamics(
            v_threshold, v_reset, v_init, make_surrogate(surrogate), detach_reset, decay_input
        )

    @property
    def decay(self) -> Tensor:
        """The membrane multiplier `1 - sigmoid(w)`, a 0-dim tensor with a gradient."""
        return 1.0 - torch.sigmoid(self.w)

    def forward(self, current: Tensor) -> Tensor:
        """Return the spikes [T, ...] for the currents [T, ...] of one window, from rest."""
        return scan(current, self.dynamics, self.decay)[0]

    def step(self, current: Tensor, state: NeuronState | None = None) -> tuple[Tensor, NeuronState]:
        """Return the spike and the state after one step, for a current [...]; None starts fresh."""
        spikes, state = scan(current[None], self.dynamics, self.decay, state)
        return spikes[0], state

    def extra_repr(self) -> str:
        """Return the constants, for `print(model)`."""
        return f"decay={self.decay.item():.4f}, {self.dynamics!r}"
