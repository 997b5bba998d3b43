"""The parametric leaky neuron: its time constant is learnt."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spikediff.errors import UserError
from spikediff.neurons.dynamics import Dynamics
from spikediff.neurons.layer import NeuronLayer
from spikediff.neurons.surrogate import Surrogate, make_surrogate


class ParametricLIF(NeuronLayer):
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
        if not init_tau > 1.0:
            raise UserError(f"ParametricLIF: init_tau = {init_tau} must be above 1 spiking step")
        surrogate = make_surrogate(surrogate)
        super().__init__(
            Dynamics(v_threshold, v_reset, v_init, surrogate, detach_reset, decay_input)
        )
        self.w = nn.Parameter(torch.tensor(-math.log(init_tau - 1.0)))

    @property
    def decay(self) -> Tensor:
        """The membrane multiplier `1 - sigmoid(w)`, a 0-dim tensor with a gradient."""
        return 1.0 - torch.sigmoid(self.w)
