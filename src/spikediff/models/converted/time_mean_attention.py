"""Attention in a converted network: real-valued, once a window."""

from torch import Tensor, nn

from spikediff.layers import fold_time, unfold_time


class TimeMeanAttention(nn.Module):
    r"""Attention of the window's mean, added to every spiking step.

    $y[n] = A(\bar x) + (x[n] - \bar x) / r$, where A is the block with its residual connection and
    r what it rescales its output by. So $\overline{y} = A(\bar x)$, the block of the network that
    was converted, and the products of queries, keys and values run once and not T times. They stay
    products of real numbers: no spikes come into it, and an energy audit names them.

    Args:
        attention: diffusers' `Attention`, with a residual connection.
        spiking_steps: T; 1 for a network without time.

    Shape: [T*B, C, H, W] -> [T*B, C, H, W].
    """

    def __init__(self, attention: nn.Module, spiking_steps: int) -> None:
        super().__init__()
        self.attention, self.spiking_steps = attention, spiking_steps
        self.rescale: float = attention.rescale_output_factor  # type: ignore[assignment]

    def forward(self, x: Tensor, *_unused: object, **_keywords: object) -> Tensor:
        """Return y."""
        window = unfold_time(x, self.spiking_steps)  # [T, B, C, H, W]
        mean = window.mean(0)
        rest = (window - mean) / self.rescale
        return fold_time(self.attention(mean) + rest)
