"""Untrained spiking autoencoders that are not silent."""

import torch

from spikediff.layers import ThresholdNorm
from spikediff.systems.fsvae.network import FSVAE


def warm(model: FSVAE, images: torch.Tensor) -> FSVAE:
    """Let the norms see images, and shift them towards firing; return the model in eval mode."""
    norms = [module for module in model.modules() if isinstance(module, ThresholdNorm)]
    for norm in norms:
        norm.momentum = 0.5
        torch.nn.init.normal_(norm.bias, 0.1, 0.2)
    for _ in range(12):
        model.train()(images)
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()
