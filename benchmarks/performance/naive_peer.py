"""A spiking neuron as one writes it first: a loop over T, and autograd does the rest."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from performance.missing import Missing
from performance.surgery import with_neurons
from spikediff.neurons import IF, LIF, NeuronLayer
from spikediff.neurons.surrogate import ATan, Sigmoid


class _ATanSpike(torch.autograd.Function):
    """Heaviside forward, the derivative of an arc tangent backward."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, alpha: float) -> Tensor:
        ctx.save_for_backward(z)
        ctx.alpha = alpha
        return (z >= 0).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        return grad * (ctx.alpha / 2) / (1 + (math.pi / 2 * ctx.alpha * z) ** 2), None


class _SigmoidSpike(torch.autograd.Function):
    """Heaviside forward, the derivative of a sigmoid backward."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, alpha: float) -> Tensor:
        ctx.save_for_backward(z)
        ctx.alpha = alpha
        return (z >= 0).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        s = torch.sigmoid(ctx.alpha * z)
        return grad * ctx.alpha * s * (1 - s), None


_SPIKES = {ATan: _ATanSpike, Sigmoid: _SigmoidSpike}


class NaiveNeuron(nn.Module):
    """IF and LIF with a hard or a soft reset.

    Args:
        layer: Ours, whose constants it takes.
    """

    def __init__(self, layer: NeuronLayer) -> None:
        super().__init__()
        self.constants = dynamics = layer.dynamics
        if (
            not isinstance(layer, IF | LIF)
            or dynamics.strict_threshold
            or dynamics.v_init is not None
            or type(dynamics.surrogate) not in _SPIKES
        ):
            raise Missing(f"the naive network has no {type(layer).__name__} of {dynamics}")
        self.decay = float(layer.decay)
        self.spike = _SPIKES[type(dynamics.surrogate)]

    def forward(self, current: Tensor) -> Tensor:
        """Currents [T, ...] -> spikes [T, ...]."""
        constants = self.constants
        rest = constants.v_reset or 0.0
        v = torch.full_like(current[0], rest)
        spikes = []
        for now in current:
            pulled = v if self.decay == 1.0 else rest + self.decay * (v - rest)
            v = pulled + ((1 - self.decay) * now if constants.decay_input else now)
            fired = self.spike.apply(v - constants.v_threshold, constants.surrogate.alpha)
            if constants.v_reset is None:
                v = v - fired * constants.v_threshold
            else:
                v = (1 - fired) * v + fired * constants.v_reset
            spikes.append(fired)
        return torch.stack(spikes)


def network(model: nn.Module) -> nn.Module:
    """Return our network with naive neurons."""
    return (
        NaiveNeuron(model) if isinstance(model, NeuronLayer) else with_neurons(model, NaiveNeuron)
    )
