r"""The activation of a network that is to be converted: a ReLU with a clip and a few levels."""

from typing import Any

import torch
from torch import Tensor, nn

from spikediff.errors import UserError
from spikediff.neurons import carry_nan

AUTHORS_CLIP = 6.0  # where the authors' clips start


class _StraightThrough(torch.autograd.Function):
    """Rounding, whose derivative is taken for 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def quantise_activation(x: Tensor, clip: Tensor | float, levels: int) -> Tensor:
    r"""Return $Q(x) = \frac{s}{L}\,\mathrm{round}(L\,\mathrm{clip}(x / s, 0, 1))$.

    The gradient goes straight through the rounding: $\partial Q/\partial x$ is 1 where $0 < x < s$,
    else 0, and $\partial Q/\partial s$ is $(Q(x) - x) / s$ there, 1 above, 0 below.

    Args:
        x: What the activation sees, any shape.
        clip: s, the largest value that comes out, 0-dim.
        levels: L, the steps between 0 and s.

    Example:
        >>> quantise_activation(torch.tensor([-1.0, 0.4, 0.6, 9.0]), 3.0, levels=3).tolist()
        [0.0, 0.0, 1.0, 3.0]

    Reference: Cao et al., SDM, IEEE TAI 2025, section 6; Hu et al., Fast-SNN, IEEE TPAMI 2023.
    """
    share = carry_nan((x / clip).relu().clamp(max=1.0), x)
    rounded: Tensor = _StraightThrough.apply(levels * share)  # type: ignore[no-untyped-call]
    return rounded / levels * clip


class QuantisedReLU(nn.Module):
    """A ReLU with a learnable clip and `2^b - 1` steps below it.

    Args:
        bits: b; None does not round, which is what infinitely many spiking steps would compute.
        clip: Initial clip s, in units of the activation.

    Raises:
        UserError: `bits` or `clip` is not positive.

    Shape: any -> the same.

    Example:
        >>> QuantisedReLU(bits=2, clip=3.0)(torch.tensor([1.2, 1.8])).tolist()
        [1.0, 2.0]
    """

    def __init__(self, bits: int | None, clip: float = AUTHORS_CLIP) -> None:
        super().__init__()
        if (bits is not None and bits < 1) or not clip > 0:
            raise UserError(f"QuantisedReLU: bits = {bits} and clip = {clip} must be positive")
        self.levels = None if bits is None else 2**bits - 1
        self.clip = nn.Parameter(torch.tensor(float(clip)))

    def forward(self, x: Tensor) -> Tensor:
        """Return Q(x)."""
        if self.levels is None:
            return carry_nan((x / self.clip).relu().clamp(max=1.0), x) * self.clip
        return quantise_activation(x, self.clip, self.levels)

    def extra_repr(self) -> str:
        """Return the constants, for `print(model)`."""
        return f"levels={self.levels}"
