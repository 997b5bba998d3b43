"""Apply layers without a time axis at every spiking step: folding, dropout, joining."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate


def fold_time(x: Tensor) -> Tensor:
    """Return [T, B, ...] as [T*B, ...]."""
    folded = x.flatten(0, 1)
    if not isinstance(folded, Tensor) or torch.compiler.is_compiling() or not folded.numel():
        return folded
    # Layers go by the strides, which of one image are what views left, and round accordingly: an
    # image that is repeated is laid out like several, one image like the first of several.
    if len(folded) == 1:
        return folded.as_strided(folded.shape, (folded.numel(), *folded.stride()[1:]))
    return folded if folded.stride(0) else folded.contiguous()


def unfold_time(x: Tensor, spiking_steps: int) -> Tensor:
    """Return [T*B, ...] as [T, B, ...]; the inverse of `fold_time`."""
    return x.view(spiking_steps, -1, *x.shape[1:])


def over_time(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a layer of images to every spiking step: [T, B, ...] -> [T, B, ...]."""
    return unfold_time(layer(fold_time(x)), x.shape[0])


def nearest_upsample(x: Tensor) -> Tensor:
    """Return [T, B, C, H, W] as [T, B, C, 2H, 2W], every pixel repeated; spikes stay spikes.

    A window of signals [T, B, C, L] becomes [T, B, C, 2L].
    """
    return unfold_time(interpolate(fold_time(x), scale_factor=2.0, mode="nearest"), x.shape[0])


def join_channels(windows: Sequence[Tensor]) -> Tensor:
    """Concatenate windows [T, B, C, H, W] along their channels.

    It works on images, whose memory layout (such as channels last) `torch.cat` preserves, which
    it does not for five axes.
    """
    return unfold_time(torch.cat([fold_time(x) for x in windows], dim=1), len(windows[0]))


class WindowDropout(nn.Module):
    """Dropout whose mask is the same at every spiking step of a window [T, B, ...].

    A new mask at every step would average out over the window and hardly regularise.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        """Return x with units dropped and the others scaled by 1 / (1 - p); x itself in eval."""
        if not self.training or self.drop.p == 0.0:
            return x
        mask: Tensor = self.drop(x.new_ones(x.shape[1:]))  # [B, ...], broadcast over T
        return x * mask
