"""Precision, recall, density and coverage; the nearest training image of each generated image.

Each feature of a set is the centre of a ball that extends to its k-th nearest neighbour in that
set. The union of the balls approximates the support of the distribution.

    precision   share of generated images inside the ball of at least one real image
    recall      share of real images inside the ball of at least one generated image
    density     real balls around a generated image, on average, divided by k (may exceed 1)
    coverage    share of real images whose ball holds at least one generated image

Reference:
    Kynkaanniemi et al. 2019, "Improved precision and recall metric", eq. 1 to 3;
    Naeem et al. 2020, "Reliable fidelity and diversity metrics", eq. 3 to 5.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spikediff.errors import UserError
from spikediff.evaluation.frechet import as_pair

Matrix = NDArray[np.float64]
MEMORY_MIB = 256  # for distances held at a time
# Squared distances are expanded as |x|^2 - 2 x.y + |y|^2, so they are exact only to this share of
# the largest |x|^2. A tie counts as inside, even after rounding.
ROUNDING = 1e-12


class PrecisionRecall(NamedTuple):
    """Fidelity (precision, density) and diversity (recall, coverage); only density exceeds 1."""

    precision: float
    recall: float
    density: float
    coverage: float


def precision_recall(real: Tensor, fake: Tensor, k: int = 5) -> PrecisionRecall:
    """Compare the supports of real and generated features.

    Args:
        real: Features of real images [N, D], floating point.
        fake: Features of generated images [M, D].
        k: The k-th nearest neighbour, not counting the point itself, sets the radius of a ball.
            Kynkaanniemi et al. use 3 and 50,000 images, Naeem et al. 5 and 10,000.

    Raises:
        UserError: A value is NaN or infinite, the dimensions differ, or k is not below the size of
            both sets.

    Example:
        >>> import torch
        >>> real = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
        >>> precision_recall(real, real[:2], k=1)  # one mode of two
        PrecisionRecall(precision=1.0, recall=0.5, density=2.0, coverage=0.5)
    """
    real, fake = as_pair(real, fake, "precision_recall")
    if not 1 <= k < min(len(real), len(fake)):
        raise UserError(
            f"precision_recall: k = {k} neighbours, but the sets have {len(real)} and {len(fake)} "
            "images; pass 1 up to the smaller number less one"
        )
    centre = real.mean(dim=0)  # shifting keeps distances, and minimises their rounding error
    x, y = (real - centre).numpy(), (fake - centre).numpy()
    slack = ROUNDING * max(np.square(x).sum(axis=1).max(), np.square(y).sum(axis=1).max())
    in_real = _membership(y, x, _squared_radii(x, k) + slack)
    in_fake = _membership(x, y, _squared_radii(y, k) + slack)
    return PrecisionRecall(
        precision=float((in_real.balls > 0).mean()),
        recall=float((in_fake.balls > 0).mean()),
        density=float(in_real.balls.sum() / (k * len(y))),
        coverage=float(in_real.occupied.mean()),
    )


class _Membership(NamedTuple):
    balls: NDArray[np.int64]  # [P], number of balls that contain each point
    occupied: NDArray[np.bool_]  # [C], whether each ball contains a point


def _squared_radii(points: Matrix, k: int) -> Matrix:
    """Return the squared distance of every point [P, D] to its k-th neighbour, [P]."""
    from sklearn import config_context
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=k, algorithm="brute", metric="sqeuclidean").fit(points)
    with config_context(working_memory=MEMORY_MIB):
        distances, _ = search.kneighbors()  # of the fitted points, each without itself
    return np.asarray(distances[:, -1])


def _membership(points: Matrix, centres: Matrix, squared_radii: Matrix) -> _Membership:
    """Count points [P, D] in balls around centres [C, D], a few rows at a time."""
    from sklearn.metrics import pairwise_distances_chunked

    balls: list[NDArray[np.int64]] = []
    occupied = np.zeros(len(centres), dtype=np.bool_)
    chunks: Any = pairwise_distances_chunked(
        points, centres, metric="euclidean", squared=True, working_memory=MEMORY_MIB
    )
    for distances in chunks:  # [rows, C]
        inside = distances <= squared_radii
        balls.append(inside.sum(axis=1))
        occupied |= inside.any(axis=0)
    return _Membership(np.concatenate(balls), occupied)


@dataclass(frozen=True)
class Nearest:
    """Indices [N], int64, of the nearest training images, and their distances [N].

    The distance is the root mean square difference per pixel.
    """

    index: Tensor
    distance: Tensor


def nearest_images(images: Tensor, training: Tensor) -> Nearest:
    """Find the training image [M, C, H, W] closest to each image [N, C, H, W], in the same range.

    Example:
        >>> training = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
        >>> nearest_images(torch.full((1, 1, 2, 2), 0.75), training)
        Nearest(index=tensor([1]), distance=tensor([0.2500]))
    """
    pixels = images[0].numel()
    # Rounding of the expanded square would lose small distances.
    distances = torch.cdist(
        images.flatten(1), training.flatten(1), compute_mode="donot_use_mm_for_euclid_dist"
    )
    nearest = distances.min(dim=1)
    return Nearest(nearest.indices, nearest.values / pixels**0.5)
