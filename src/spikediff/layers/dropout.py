"""Dropout that drops a unit for the whole spiking window."""

from torch import Tensor, nn


class WindowDropout(nn.Module):
    """Dropout whose mask is the same at every spiking step.

    A fresh mask a step would average out over the window and hardly regularise.

    Args:
        p: Probability of dropping a unit, in [0, 1).

    Shape: [T, B, ...] -> [T, B, ...].
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
