"""Windows as the compiled kernels walk them: step behind step, each without holes."""

import torch
from torch import Tensor


def in_step_order(x: Tensor) -> Tensor:
    """Return [T, ...] whose steps lie behind one another, without holes.

    Channels-last windows [T, B, C, H, W] stay as they are.
    """
    step = x[0]
    channels_last = x.dim() == 5 and step.is_contiguous(memory_format=torch.channels_last)
    one_by_one = len(x) == 1 or x.stride(0) == step.numel()
    return x if channels_last and one_by_one else x.contiguous()


def laid_out_as(x: Tensor, like: Tensor) -> Tensor:
    """Return x [T, ...] in the layout of another window [T, ...], with its own dtype."""
    if x.stride() == like.stride():
        return x
    return torch.empty_like(like, dtype=x.dtype).copy_(x)
