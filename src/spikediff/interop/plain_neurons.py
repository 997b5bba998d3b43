"""Neurons in the standard operations of torch: what is left of them in an exported program."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from spikediff.neurons import (
    IF,
    LIF,
    NeuronLayer,
    ParametricLIF,
    SignedIF,
    carry_nan,
    charge,
)
from spikediff.neurons.dynamics import Dynamics

Model = TypeVar("Model", bound=nn.Module)


class PlainNeuron(nn.Module):
    """The window of a neuron layer, step by step, without an operator of ours.

    Equations and rounding are those of `spikediff.neurons`; it is not differentiable.

    Args:
        neuron: The layer.

    Shape: currents [T, ...] -> spikes [T, ...].

    Example:
        >>> PlainNeuron(IF())(torch.tensor([0.5, 0.5, 2.0])).tolist()
        [0.0, 1.0, 1.0]
    """

    def __init__(self, neuron: NeuronLayer) -> None:
        super().__init__()
        self.dynamics: Dynamics = neuron.dynamics
        self.decay = float(torch.as_tensor(neuron.decay).detach())

    def forward(self, current: Tensor, memory: object = None) -> Tensor:
        """Return the spikes of a window from rest; a memory has no place in an exported program."""
        assert memory is None
        v, counts = self.dynamics.fresh_state(current[0])
        spikes = []
        for n in range(len(current)):
            u = charge(v, current[n], self.decay, self.dynamics)
            spike = self._fire(u, counts)
            v = self._reset(u, spike)
            counts = None if counts is None else counts + spike
            spikes.append(spike.to(current.dtype))
        return torch.stack(spikes)

    def _fire(self, u: Tensor, counts: Tensor | None) -> Tensor:
        dynamics = self.dynamics
        threshold = dynamics.v_threshold
        spike = (u > threshold if dynamics.strict_threshold else u >= threshold).to(u.dtype)
        spike = carry_nan(spike, u)
        if dynamics.v_negative is None or counts is None:
            return spike
        return spike - ((u <= -dynamics.v_negative) & (counts > 0)).to(u.dtype)

    def _reset(self, u: Tensor, spike: Tensor) -> Tensor:
        if self.dynamics.v_reset is None:
            return u - spike * self.dynamics.v_threshold
        return u * (1.0 - spike) + spike * self.dynamics.v_reset


def with_plain_neurons(model: Model) -> Model:
    """Return a copy of a network whose neurons are `PlainNeuron`.

    Neurons that are not of `spikediff.neurons` (a converted network's) stay, and run by the
    reference.
    """
    plain = copy.deepcopy(model)
    for module in list(plain.modules()):
        for name, child in module.named_children():
            if type(child) in (IF, LIF, ParametricLIF, SignedIF):
                setattr(module, name, PlainNeuron(child))  # type: ignore[arg-type]
    return plain
