r"""Read-outs: what is read from a window of currents [T, ...], in real numbers [...]."""

import torch
from torch import Tensor


def decay_weights(spiking_steps: int, decay: float = 0.8) -> Tensor:
    r"""Return $\lambda^{T-1-n}$ for n from 0 to T - 1, float64 [T]: the weights of `decayed_sum`.

    Example:
        >>> decay_weights(3, decay=0.5).tolist()
        [0.25, 0.5, 1.0]
    """
    powers = [decay ** (spiking_steps - 1 - n) for n in range(spiking_steps)]
    return torch.tensor(powers, dtype=torch.float64)


def weighted_sum(x: Tensor, weights: Tensor) -> Tensor:
    """Return the sum of x [T, ...] over the spiking steps, each by its weight [T]."""
    return (weights.to(x).view(-1, *[1] * (x.dim() - 1)) * x).sum(0)


def decayed_sum(x: Tensor, decay: float = 0.8) -> Tensor:
    r"""Return the membrane of a leaky neuron that never fires, after the last step.

    $v[T] = \sum_n \lambda^{T-1-n} x[n]$, n from 0. The weights are not normalised (they sum to
    2.952 for T = 4 and 4.161 for T = 8), so a network does not carry over to another T unscaled.

    Args:
        x: Currents [T, ...].
        decay: Lambda.

    Returns:
        The membrane [...].

    Example:
        >>> round(decayed_sum(torch.ones(4)).item(), 3)
        2.952

    Reference: FSVAE (Kamata et al., AAAI 2022) calls it membrane output; SDDPM uses it too.
    """
    return weighted_sum(x, decay_weights(x.shape[0], decay))


def mean(x: Tensor) -> Tensor:
    """Return the average over the spiking steps [...]."""
    return x.mean(0)


def last(x: Tensor) -> Tensor:
    """Return the value at the last spiking step [...]."""
    return x[-1]
