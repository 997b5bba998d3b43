"""Direct coding: the same real-valued current at every spiking step."""

from torch import Tensor


def direct(x: Tensor, spiking_steps: int) -> Tensor:
    """Return x [B, ...] as a constant current [T, B, ...] (a view, no copy).

    Example:
        >>> import torch
        >>> direct(torch.zeros(2, 3), 4).shape
        torch.Size([4, 2, 3])
    """
    return x.expand(spiking_steps, *x.shape)
