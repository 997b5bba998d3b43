"""The Frechet distance between two sets of features, each modelled as a Gaussian.

    d^2 = |mu_a - mu_b|^2 + tr( A + B - 2 (A B)^{1/2} )

$(A B)^{1/2}$ of the covariances A and B has the eigenvalues of the symmetric matrix
$(A^{1/2} B A^{1/2})^{1/2}$, so no root of a non-symmetric matrix is needed. (One published code
computes it by SVD, which overstates the distance by a third.)

Reference:
    Dowson and Landau 1982 (the closed form); Heusel et al. 2017, "GANs trained by a two time-scale
    update rule", eq. 6 (the score); Chan, Golub and LeVeque 1983 (moments in parts).
"""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from spikediff.errors import UserError


def as_features(features: Tensor, where: str, at_least: int = 2) -> Tensor:
    """Return features [N, D], N >= `at_least`, as float64 on the CPU; `where` names the caller."""
    if features.ndim != 2 or not features.is_floating_point() or 0 in features.shape:
        found = f"{features.dtype} {list(features.shape)}"
        raise UserError(f"{where}: features are {found}; pass floating point [N, D]")
    if len(features) < at_least:
        raise UserError(f"{where}: {len(features)} images are too few; pass at least {at_least}")
    bad = int((~features.isfinite()).any(dim=1).sum())
    if bad:
        raise UserError(
            f"{where}: {bad} of {len(features)} feature vectors hold NaN or infinity; "
            "check the images for NaN"
        )
    return features.detach().to("cpu", torch.float64)


def as_pair(a: Tensor, b: Tensor, where: str) -> tuple[Tensor, Tensor]:
    """Return `as_features` of two sets [N, D] and [M, D]."""
    a, b = as_features(a, where), as_features(b, where)
    _check_dimensions(a.shape[1], b.shape[1], where)
    return a, b


def _check_dimensions(a: int, b: int, where: str) -> None:
    if a != b:
        raise UserError(
            f"{where}: one set has {a} dimensions, the other {b}; use one feature network for both"
        )


# A negative eigenvalue above -NEGLIGIBLE times the largest is rounding: many codes sum in float32.
NEGLIGIBLE = 1e-6


class TooFewSamples(UserWarning):
    """A D-dimensional covariance comes from D images or fewer, so the distance is biased."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of a set of features.

    Raises:
        UserError: A shape or type is wrong, a value is NaN or infinite, or the covariance is not
            symmetric.

    Example:
        >>> Moments.of(torch.tensor([[1.0], [3.0]])).covariance
        tensor([[2.]], dtype=torch.float64)
    """

    count: int | None  # number of images; None if published statistics do not state it
    mean: Tensor  # float64 [D]
    covariance: Tensor  # float64 [D, D], divided by `count - 1`

    def __post_init__(self) -> None:
        D = self.mean.numel()
        if self.mean.shape != (D,) or self.covariance.shape != (D, D):
            found = f"{list(self.mean.shape)} and {list(self.covariance.shape)}"
            raise UserError(f"moments: mean and covariance are {found}; pass [D] and [D, D]")
        if {self.mean.dtype, self.covariance.dtype} != {torch.float64}:
            raise UserError("moments: mean and covariance must be float64; use .double()")
        if not (self.mean.isfinite().all() and self.covariance.isfinite().all()):
            raise UserError(
                "moments: mean or covariance contains NaN or infinity; compute them again"
            )
        scale = float(self.covariance.abs().max())
        if not torch.allclose(self.covariance, self.covariance.T, rtol=0, atol=NEGLIGIBLE * scale):
            raise UserError("moments: the covariance is not symmetric; is it a covariance?")

    @property
    def dimensions(self) -> int:
        """D."""
        return len(self.mean)

    @staticmethod
    def of(features: Tensor) -> "Moments":
        """Return the moments of features [N, D], N at least 2."""
        running = RunningMoments()
        running.add(features)
        return running.moments()


class RunningMoments:
    """Moments of features that arrive in parts, with one part in memory at a time.

    Parts are merged by their means and scatter matrices, which is numerically stable, unlike sums
    of squares (Chan, Golub and LeVeque 1983, eq. 2.1).

    Example:
        >>> running = RunningMoments()
        >>> for part in torch.tensor([[0.0], [1.0], [5.0]]).split(2):
        ...     running.add(part)
        >>> running.count, running.moments().mean.item()
        (3, 2.0)
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean = torch.zeros(0, dtype=torch.float64)  # [D]
        self._scatter = torch.zeros(0, 0, dtype=torch.float64)  # [D, D], sum of (x - mean)^2

    def add(self, features: Tensor) -> None:
        """Add features [N, D]; D stays the same, N may be 1."""
        part = as_features(features, "moments", at_least=1)
        count, mean = len(part), part.mean(dim=0)
        centred = part - mean
        scatter = centred.T @ centred
        if self.count == 0:
            self.count, self._mean, self._scatter = count, mean, scatter
            return
        _check_dimensions(len(self._mean), len(mean), "moments")
        total = self.count + count
        delta = mean - self._mean
        between = torch.outer(delta, delta) * (self.count * count / total)
        self._scatter = self._scatter + scatter + between
        self._mean = self._mean + delta * (count / total)
        self.count = total

    def moments(self) -> Moments:
        """Return the moments of all features added so far, at least two images."""
        if self.count < 2:
            raise UserError(
                f"moments: {self.count} images are too few for a spread; add at least 2"
            )
        return Moments(self.count, self._mean.clone(), self._scatter / (self.count - 1))


def frechet_distance(a: Tensor | Moments, b: Tensor | Moments) -> float:
    """Return the squared Frechet distance between two sets of features, as papers report it.

    Its bias falls with the number of images, so compare only distances at equal numbers.

    Args:
        a: Features [N, D], floating point; or their moments.
        b: Features [M, D]; or their moments.

    Raises:
        UserError: A value is NaN or infinite, there are fewer than two images, the dimensions
            differ, or a covariance has negative variances.

    Warns:
        TooFewSamples: A set has no more images than dimensions.

    Example:
        >>> a = torch.tensor([[0.0], [2.0]])  # mean 1, variance 2
        >>> frechet_distance(a, a + 3)
        9.0
    """
    a, b = (x if isinstance(x, Moments) else Moments.of(x) for x in (a, b))
    _check_dimensions(a.dimensions, b.dimensions, "frechet_distance")
    D = a.dimensions
    count = min(m.count or D + 1 for m in (a, b))
    if count <= D:
        warnings.warn(
            f"frechet_distance: {count} images for {D} dimensions: the covariance is singular and "
            f"the distance biased upwards; use more than {D} images",
            TooFewSamples,
            stacklevel=2,
        )
    shift = (a.mean - b.mean).square().sum()
    spread = a.covariance.trace() + b.covariance.trace()
    squared = shift + spread - 2 * _trace_of_root(a.covariance, b.covariance)
    return max(float(squared), 0.0)  # rounding can leave it below zero


def _trace_of_root(A: Tensor, B: Tensor) -> Tensor:
    """Return tr (A B)^{1/2} = sum_i sqrt(lambda_i(A^{1/2} B A^{1/2})), A and B [D, D]."""
    eigenvalues, V = torch.linalg.eigh(A)
    root = (V * _clipped(eigenvalues).sqrt()) @ V.T
    inner = root @ B @ root
    return _clipped(torch.linalg.eigvalsh((inner + inner.T) / 2)).sqrt().sum()


def _clipped(eigenvalues: Tensor) -> Tensor:
    """Set negative eigenvalues to zero; refuse those that exceed rounding error."""
    if eigenvalues[0] < -NEGLIGIBLE * eigenvalues.abs().max():
        raise UserError(
            f"frechet_distance: a covariance has the negative eigenvalue {eigenvalues[0]:.3g}; "
            "it is not a covariance, make it again"
        )
    return eigenvalues.clamp(min=0)
