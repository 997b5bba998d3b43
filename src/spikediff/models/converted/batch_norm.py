"""Folding batch norm into the weights before it: a norm that costs a spiking network nothing."""

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from spikediff.errors import UserError


@torch.no_grad()
def fold_batch_norm(layer: nn.Conv2d | nn.Linear, norm: nn.BatchNorm2d) -> Tensor:
    r"""Change a layer's weights in place, so that it computes what it and the norm computed.

    $W' = g W$ and $b' = g (b - \mu) + \beta$ with $g = \gamma / \sqrt{\sigma^2 + \epsilon}$, per
    output channel, from the running statistics.

    Args:
        layer: A convolution or linear layer with a bias; its C outputs are normalised.
        norm: The norm behind it.

    Returns:
        g [C], for other layers whose outputs are added before the norm.

    Raises:
        UserError: The norm has no running statistics, or the layer no bias.

    Example:
        >>> conv, norm, x = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2).eval(), torch.randn(3, 1, 4, 4)
        >>> before = norm(conv(x))
        >>> _ = fold_batch_norm(conv, norm)
        >>> torch.allclose(conv(x), before, atol=1e-5)
        True
    """
    if norm.running_mean is None or norm.running_var is None:
        raise UserError("fold_batch_norm: the norm keeps no running statistics; there is no fold")
    gain: Tensor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    scale_outputs(layer, gain)
    _bias_of(layer).add_(norm.bias - gain * norm.running_mean)
    return gain


@torch.no_grad()
def scale_outputs(layer: nn.Conv2d | nn.Linear, gain: Tensor) -> None:
    """Multiply every output channel of a layer by its gain [C], in place."""
    layer.weight *= gain.reshape(-1, *[1] * (layer.weight.dim() - 1))
    _bias_of(layer).mul_(gain)


def _bias_of(layer: nn.Conv2d | nn.Linear) -> Tensor:
    if layer.bias is None:
        raise UserError("fold_batch_norm: the layer before the norm has no bias to take its shift")
    return layer.bias


def fold_residual_norms(unet: nn.Module) -> None:
    """Fold the second norm of every residual block, in place; the first has no layer before it."""
    for block in _residual_blocks(unet):
        gain = fold_batch_norm(block.conv1.layer, block.norm2)
        if block.time_emb_proj is not None and block.time_embedding_norm == "default":
            scale_outputs(block.time_emb_proj.layer, gain)  # added before the norm
    without_folded_norms(unet)


def without_folded_norms(unet: nn.Module) -> None:
    """Take out the norms that `fold_residual_norms` folds."""
    for block in _residual_blocks(unet):
        block.norm2 = nn.Identity()


def _residual_blocks(unet: nn.Module) -> list[ResnetBlock2D]:
    return [module for module in unet.modules() if isinstance(module, ResnetBlock2D)]
