"""Fold the norms of a network in evaluation into the convolutions before them.

It changes the rounding of a current, and with it fewer than one spike in ten thousand.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from spikediff.layers import (
    ConvNorm,
    NormedShortcut,
    PostActivationBlock,
    SpikingLayer,
    SynapticResampling,
    ThresholdNorm,
)


def fold_norms(model: nn.Module) -> None:
    """Fold in place what can be folded; a norm without a convolution before it stays."""
    for module in model.modules():
        for kind, fold in FOLDS.items():
            if isinstance(module, kind):
                fold(module)


def _fold_pair(module: nn.Module, synapse: str) -> Tensor | None:
    """Fold one norm into one synapse; return the gain [C], or None where there is nothing to do."""
    linear, after = getattr(module, synapse), module.norm
    if not isinstance(linear, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        return None
    if not isinstance(after, nn.BatchNorm2d | nn.BatchNorm1d | ThresholdNorm):
        return None
    gain, offset = norm_affine(after)
    axis = 1 if isinstance(linear, nn.ConvTranspose2d) else 0
    shape = [1] * linear.weight.dim()
    shape[axis] = -1
    bias = torch.zeros_like(gain) if linear.bias is None else linear.bias.detach().double()
    weight = linear.weight.detach().double() * gain.view(shape)
    linear.weight = nn.Parameter(weight.to(linear.weight.dtype))
    linear.bias = nn.Parameter((gain * bias + offset).to(linear.weight.dtype))
    module.norm = nn.Identity()
    return gain


def norm_affine(norm: nn.BatchNorm2d | nn.BatchNorm1d | ThresholdNorm) -> tuple[Tensor, Tensor]:
    """Return what a norm in evaluation multiplies by and adds [C], float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight = norm.gain if isinstance(norm, ThresholdNorm) else norm.weight
    deviation = torch.sqrt(norm.running_var.double() + norm.eps)
    gain = weight.detach().double() / deviation
    return gain, norm.bias.detach().double() - gain * norm.running_mean.double()


def _fold_conv_norm(module: nn.Module) -> None:
    assert isinstance(module, ConvNorm)
    if isinstance(module.scaling, nn.Identity):  # a factor per step stands between the two
        _fold_pair(module, "conv")


def _fold_post_activation(module: nn.Module) -> None:
    """The timestep's current joins before the norm, so its synapse takes the norm's gain."""
    assert isinstance(module, PostActivationBlock)
    gain = _fold_pair(module.synapse1, "conv")
    if gain is None:
        return
    linear = module.timestep_synapse
    linear.weight.data = (linear.weight.double() * gain[:, None]).to(linear.weight.dtype)
    linear.bias.data = (linear.bias.double() * gain).to(linear.bias.dtype)


# In this order: a block folds its first synapse itself, before ConvNorm would.
FOLDS: dict[type[nn.Module], Callable[[nn.Module], object]] = {
    PostActivationBlock: _fold_post_activation,
    ConvNorm: _fold_conv_norm,
    SpikingLayer: lambda module: _fold_pair(module, "synapse"),
    SynapticResampling: lambda module: _fold_pair(module, "conv"),
    NormedShortcut: lambda module: _fold_pair(module, "conv"),
}
