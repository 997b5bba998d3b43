"""Norms whose running statistics are those of one batch: neurons fire, and not all of them."""

import torch

from spikediff.layers import ThresholdNorm


def see(model, *inputs, momentum=1.0):
    """Let every norm keep the statistics of these inputs; return the model in evaluation mode.

    A smaller momentum keeps a part of the first statistics, which makes currents smaller.
    """
    kinds = torch.nn.modules.batchnorm._BatchNorm | ThresholdNorm
    norms = [module for module in model.modules() if isinstance(module, kinds)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = momentum
    model.train()(*inputs)
    for norm, kept in zip(norms, before, strict=True):
        norm.momentum = kept
    return model.eval()
