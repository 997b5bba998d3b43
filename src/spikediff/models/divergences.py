"""How far a posterior is from its prior."""

from collections.abc import Callable

import torch
from torch import Tensor

from spikediff.coding import psp_mmd

_SMOOTHING = 1e-2


def bernoulli_kl(q: Tensor, p: Tensor) -> Tensor:
    r"""Return the smoothed Kullback-Leibler divergence of Bernoulli latents.

    $\sum q\,\ln\frac{q + s}{p + s} + (1 - q)\,\ln\frac{1 - q + s}{1 - p + s}$, s = 0.01, over
    steps and units, then the mean over images. The smoothing keeps it finite where all candidates
    of a unit agree; it may be slightly negative for that.

    Args:
        q: Probabilities of a 1 under the posterior [T, B, C].
        p: Those under the prior [T, B, C].

    Returns:
        The divergence in nats, 0-dim; 0 for equal probabilities.

    Example:
        >>> round(bernoulli_kl(torch.ones(1, 1, 1), torch.full((1, 1, 1), 0.5)).item(), 4)
        0.6833

    Reference: the alternative loss in the released code of Kamata et al., AAAI 2022.
    """
    ones = q * torch.log((q + _SMOOTHING) / (p + _SMOOTHING))
    zeros = (1 - q) * torch.log((1 - q + _SMOOTHING) / (1 - p + _SMOOTHING))
    return (ones + zeros).sum((0, 2)).mean()  # [T, B, C] -> [B] -> []


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    r"""Return $KL(N(\mu, \sigma^2) \| N(0, 1))$, summed over units, then the mean over images.

    $\frac{1}{2} \sum \mu^2 + \sigma^2 - 1 - \ln \sigma^2$.

    Args:
        mean: Mu [B, D].
        log_variance: $\ln \sigma^2$ [B, D].

    Returns:
        The divergence in nats, 0-dim.

    Example:
        >>> gaussian_kl(torch.ones(1, 3), torch.zeros(1, 3)).item()
        1.5

    Reference: Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014, appendix B.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()


# Of spike trains: the distance, and the weight that the authors give it beside the squared error.
SPIKE_DIVERGENCES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float]] = {
    "mmd": (psp_mmd, 1.0),
    "kl": (bernoulli_kl, 1e-4),
}
