"""The signed integrate-and-fire neuron: it can take a spike back."""

from collections.abc import Mapping
from typing import Any

from spikediff.errors import UserError
from spikediff.neurons.dynamics import Dynamics
from spikediff.neurons.layer import NeuronLayer
from spikediff.neurons.surrogate import Surrogate, make_surrogate


class SignedIF(NeuronLayer):
    """A layer of IF neurons with ternary spikes {-1, 0, 1} and a soft reset.

    It emits -1 at `u <= -v_negative`, but only while it has emitted more positive than negative
    spikes: the sum over the window stays non-negative, as the ReLU that it replaces does.

    Args:
        v_threshold: Threshold of the positive spike, and the amount that either spike resets by.
        v_negative: Distance below zero at which a spike is taken back.
        surrogate: Name, mapping or object; see `make_surrogate`.
        detach_reset: Whether the gradient ignores the path through the reset.
        v_init: Membrane of a fresh neuron; None stands for half the threshold, which makes the
            spike count round the input instead of flooring it.

    Raises:
        UserError: `v_negative` is negative.

    Example:
        >>> import torch
        >>> SignedIF()(torch.tensor([0.6, -0.8, 0.0])).tolist()
        [1.0, -1.0, 0.0]

    Reference: Hu et al., "Fast-SNN", IEEE TPAMI 2023; ANN-to-SNN conversion of SDM, section 6.
    """

    def __init__(
        self,
        v_threshold: float = 1.0,
        v_negative: float = 1e-3,
        surrogate: str | Mapping[str, Any] | Surrogate = "atan",
        detach_reset: bool = False,
        v_init: float | None = None,
    ) -> None:
        if v_negative < 0:
            raise UserError(f"SignedIF: v_negative = {v_negative} must not be negative")
        super().__init__(
            Dynamics(
                v_threshold=v_threshold,
                v_reset=None,
                v_init=v_threshold / 2 if v_init is None else v_init,
                surrogate=make_surrogate(surrogate),
                detach_reset=detach_reset,
                v_negative=v_negative,
            )
        )

    @property
    def decay(self) -> float:
        """No leak."""
        return 1.0
