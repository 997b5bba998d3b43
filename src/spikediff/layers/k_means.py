"""k-means, and the drawing of rows that are far from what is already there."""

import torch
from torch import Tensor


def squared_distances(rows: Tensor, centres: Tensor) -> Tensor:
    """Return the squared Euclidean distances [N, K] of rows [N, C] from centres [K, C].

    In single precision or better, also under autocast: half of it would mistake the nearest one.
    """
    with torch.autocast(rows.device.type, enabled=False):
        dtype = torch.promote_types(rows.dtype, torch.float32)
        rows, centres = rows.to(dtype), centres.to(dtype)
        norms = rows.square().sum(1, keepdim=True) + centres.square().sum(1)
        return norms - 2.0 * rows @ centres.T


def draw_rows(weights: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw indices of rows with probabilities proportional to weights, with replacement.

    Args:
        weights: Not negative [N]; where all are 0, every row is as likely.
        count: How many.
        generator: The only source of randomness, on any device; torch's own where there is none.

    Returns:
        Indices [count].

    Example:
        >>> draw_rows(torch.tensor([0.0, 1.0, 0.0]), 4).tolist()
        [1, 1, 1, 1]
    """
    weights = torch.where(weights.sum() > 0, weights, torch.ones_like(weights)).double()
    device = weights.device if generator is None else generator.device
    draws = torch.rand(count, generator=generator, device=device, dtype=torch.float64)
    cumulative = weights.cumsum(0)
    # right=True: a row of weight 0 spans nothing and is never met.
    found = torch.searchsorted(cumulative, draws.to(weights.device) * cumulative[-1], right=True)
    return found.clamp(max=len(weights) - 1)


def k_means(
    rows: Tensor, count: int, generator: torch.Generator | None = None, rounds: int = 10
) -> Tensor:
    """Cluster rows: centres drawn from them by k-means++, then so many rounds of Lloyd's means.

    Args:
        rows: [N, C], at least one.
        count: K; where there are fewer different rows, some centres coincide.
        generator: The only source of randomness.
        rounds: Of assigning every row and moving every centre; one that no row chose stays.

    Returns:
        Centres [K, C].

    Example:
        >>> rows = torch.tensor([[0.0], [0.2], [5.0], [5.2]])
        >>> sorted(round(c, 1) for c in k_means(rows, 2).flatten().tolist())
        [0.1, 5.1]

    Reference: Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007.
    """
    centres = rows[draw_rows(rows.new_zeros(len(rows)), 1, generator)]
    nearest = squared_distances(rows, centres)[:, 0]  # [N], of the centres so far
    for _ in range(count - 1):
        centre = rows[draw_rows(nearest.clamp(min=0.0), 1, generator)]
        centres = torch.cat([centres, centre])
        nearest = torch.minimum(nearest, squared_distances(rows, centre)[:, 0])
    for _ in range(rounds):
        counts, sums = gather_rows(rows, squared_distances(rows, centres).argmin(1), count)
        centres = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1.0), centres)
    return centres


def gather_rows(rows: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return how many rows [N, C] carry each label [N], and their sums: [K] and [K, C].

    A matrix product, which gives the same bits at every call, where adding in place does not.
    """
    chosen = torch.nn.functional.one_hot(labels, count).to(rows)  # [N, K]
    return chosen.sum(0), chosen.T @ rows
