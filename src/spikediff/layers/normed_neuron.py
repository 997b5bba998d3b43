"""Norm and neuron as one autograd node, which stores one tensor instead of two."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spikediff.layers.norm import ThresholdNorm
from spikediff.layers.time import over_time, unfold_time
from spikediff.neurons import IF, LIF, Memory
from spikediff.neurons.kernels import choice
from spikediff.neurons.kernels import window as operators


def fire_normed(
    neuron: nn.Module,
    norm: nn.Module,
    current: Tensor,
    bias: Tensor | None = None,
    memory: Memory | None = None,
) -> Tensor:
    r"""Return the spikes $SN(\mathrm{BN}(x) + b)$ of a window.

    In training on a CPU, only x is stored for the backward pass, which recomputes the neuron's
    input from it. Values and gradients equal those of two separate layers, bit for bit.

    Args:
        neuron: The neuron layer.
        norm: Its norm; the statistics are joint over time and batch.
        current: x [T, B, C, H, W]; [T, B, C, L] of signals, [T, B, C] of vectors.
        bias: b, of a shape that broadcasts to x; None for none.
        memory: States by layer, if the window continues an earlier one.
    """
    if memory is None and _can_be_one_node(neuron, norm, current):
        return _one_node(cast(IF | LIF, neuron), norm, current, bias)
    normed = over_time(norm, current)
    entered = normed if bias is None else normed + bias
    spikes: Tensor = neuron(entered) if memory is None else neuron(entered, memory)
    return spikes


# Norms that the node supports, by the axes of a window: images, signals.
_ONE_NODE = {5: (nn.BatchNorm2d, ThresholdNorm), 4: (nn.BatchNorm1d, ThresholdNorm)}


def _can_be_one_node(neuron: nn.Module, norm: nn.Module, current: Tensor) -> bool:
    return (
        type(neuron) in (IF, LIF)  # a subclass may have a window of its own
        and operators.has_operator(cast(IF | LIF, neuron).dynamics)
        and isinstance(norm, _ONE_NODE.get(current.dim(), ()))
        and norm.training
        and norm.running_mean is not None
        and norm.momentum is not None
        and torch.is_grad_enabled()
        and current.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not _is_observed(neuron)
        and not _is_observed(norm)
    )


def _is_observed(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def _one_node(neuron: IF | LIF, norm: Any, current: Tensor, bias: Tensor | None) -> Tensor:
    norm.num_batches_tracked.add_(1)
    gain = norm.gain if isinstance(norm, ThresholdNorm) else norm.weight
    statistics = (norm.running_mean, norm.running_var, norm.momentum, norm.eps)
    constants = operators.to_constants(neuron.dynamics, float(neuron.decay))
    spikes: Tensor = _NormedNeuron.apply(  # type: ignore[no-untyped-call]
        current, gain, norm.bias, bias, statistics, constants
    )
    return spikes


class _NormedNeuron(torch.autograd.Function):
    """(current, gain, offset, bias) -> spikes; stores the current and the batch's statistics."""

    @staticmethod
    def forward(
        ctx: Any,
        current: Tensor,
        gain: Tensor,
        offset: Tensor,
        bias: Tensor | None,
        statistics: tuple[Any, ...],
        constants: tuple[float, ...],
    ) -> Tensor:
        running_mean, running_var, momentum, eps = statistics
        images = current.flatten(0, 1)  # [T*B, C, H, W], or without H
        normed, mean, inverse = torch.native_batch_norm(
            images, gain, offset, running_mean, running_var, True, momentum, eps
        )
        ctx.save_for_backward(current, gain, offset, bias, mean, inverse)
        ctx.constants, ctx.eps, ctx.forced = constants, eps, choice.forced()
        entered = _plus(normed, bias, current)
        spikes: Tensor = operators.leaky_integrate_and_fire(entered, constants, None)
        return spikes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_spikes: Tensor) -> tuple[Tensor | None, ...]:
        current, gain, offset, bias, mean, inverse = ctx.saved_tensors
        images = current.flatten(0, 1)
        normed = torch.native_batch_norm(images, gain, offset, None, None, True, 0.0, ctx.eps)[0]
        entered = _plus(normed, bias, current)
        with choice.as_before(ctx.forced):
            grad, _ = operators.leaky_integrate_and_fire_backward(
                entered, grad_spikes, ctx.constants, None
            )
        grad_bias = None if bias is None else grad.sum_to_size(bias.shape)
        grad_images, grad_gain, grad_offset = torch.ops.aten.native_batch_norm_backward(
            grad.flatten(0, 1), images, gain, None, None, mean, inverse, True, ctx.eps, [True] * 3
        )
        grad_current = unfold_time(grad_images, len(current))
        return grad_current, grad_gain, grad_offset, grad_bias, None, None


def _plus(normed: Tensor, bias: Tensor | None, like: Tensor) -> Tensor:
    """Return the neuron's input, [T, B, C, H, W]."""
    window = unfold_time(normed, len(like))
    return window if bias is None else window + bias
