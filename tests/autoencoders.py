"""Untrained spiking autoencoders that are not silent."""

import torch

from norms import see
from spikediff.layers import ThresholdNorm
from spikediff.systems.fsvae.network import FSVAE


def warm(model: FSVAE, images: torch.Tensor) -> FSVAE:
    """Let the norms see images, and shift them towards firing; return the model in eval mode."""
    for module in model.modules():
        if isinstance(module, ThresholdNorm):
            torch.nn.init.normal_(module.bias, 0.1, 0.2)
    return see(model, images)
