"""The kernel distance (KID): an unbiased squared maximum mean discrepancy of features.

    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)
    k(x, y) = (x . y / D + 1)^3

Unlike the Frechet distance, its expectation does not depend on the number of images. It is zero if
both sets come from the same distribution, so a single estimate may be negative.

Reference:
    Binkowski et al. 2018, "Demystifying MMD GANs", section 4; Gretton et al. 2012, eq. 3.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from spikediff.errors import UserError
from spikediff.evaluation.frechet import as_pair


class KernelDistance(NamedTuple):
    """The mean of MMD^2 over the subsets, unscaled (tables often multiply it by a thousand).

    `std` is the standard deviation over the subsets, not the uncertainty of the mean.
    """

    mean: float
    std: float


def kernel_distance(
    a: Tensor, b: Tensor, subsets: int = 100, subset_size: int | None = 1000, seed: int = 0
) -> KernelDistance:
    """Return the kernel distance of two sets of features.

    Args:
        a: Features [N, D], floating point.
        b: Features [M, D].
        subsets: Number of pairs of subsets to draw, each without replacement.
        subset_size: Images per subset; None takes the smaller of N and M (that set is then always
            complete, so the spread comes from the other set alone).
        seed: Seed of the choice of subsets.

    Raises:
        UserError: A value is NaN or infinite, the dimensions differ, or a subset is larger than a
            set.

    Example:
        >>> a = torch.tensor([[0.0], [0.0]])
        >>> kernel_distance(a, a + 1, subsets=1, subset_size=None)  # 1 + 8 - 2
        KernelDistance(mean=7.0, std=0.0)
    """
    a, b = as_pair(a, b, "kernel_distance")
    size = min(len(a), len(b)) if subset_size is None else subset_size
    if not 2 <= size <= min(len(a), len(b)):
        raise UserError(
            f"kernel_distance: subset_size = {size}, but the sets have {len(a)} and {len(b)} "
            "images; make it smaller (at least 2), or None for the smaller set"
        )
    if subsets < 1:
        raise UserError(f"kernel_distance: subsets = {subsets}; draw at least one")
    generator = torch.Generator().manual_seed(seed)
    estimates = [
        unbiased_mmd2(_draw(a, size, generator), _draw(b, size, generator)) for _ in range(subsets)
    ]
    values = torch.tensor(estimates, dtype=torch.float64)
    return KernelDistance(float(values.mean()), float(values.std(correction=0)))


def unbiased_mmd2(x: Tensor, y: Tensor) -> float:
    """Return the unbiased estimate of MMD^2 for features x [m, D] and y [n, D], m and n > 1."""
    within = _mean_of_pairs(x) + _mean_of_pairs(y)
    return float(within - 2 * cubic_kernel(x, y).mean())


def cubic_kernel(x: Tensor, y: Tensor) -> Tensor:
    """Return k(x_i, y_j) = (x_i . y_j / D + 1)^3, [m, n], for x [m, D] and y [n, D]."""
    return (x @ y.T / x.shape[1] + 1).pow(3)


def _mean_of_pairs(x: Tensor) -> Tensor:
    """Return the mean of k(x_i, x_j) over i != j."""
    k = cubic_kernel(x, x)
    return (k.sum() - k.trace()) / (len(x) * (len(x) - 1))


def _draw(features: Tensor, size: int, generator: torch.Generator) -> Tensor:
    return features[torch.randperm(len(features), generator=generator)[:size]]
