"""What every distance accepts: a set of feature vectors, checked once and in one place."""

import torch
from torch import Tensor

from spikediff.errors import UserError


def as_features(features: Tensor, where: str, at_least: int = 2) -> Tensor:
    """Check a set of feature vectors and bring it to double precision.

    Args:
        features: Floating point [N, D], one row an image.
        where: Who asks, for the message.
        at_least: How small N may be.

    Returns:
        float64 [N, D], detached, on the CPU.

    Raises:
        UserError: Not a floating-point matrix, too few rows, or values that are NaN or
            infinite.

    Example:
        >>> as_features(torch.zeros(3, 2), "example").dtype
        torch.float64
    """
    if features.ndim != 2 or not features.is_floating_point() or 0 in features.shape:
        found = f"{features.dtype} {list(features.shape)}"
        raise UserError(f"{where}: features are {found}; pass floating point [N, D]")
    if len(features) < at_least:
        raise UserError(f"{where}: {len(features)} images are too few; pass at least {at_least}")
    bad = int((~features.isfinite()).any(dim=1).sum())
    if bad:
        raise UserError(
            f"{where}: {bad} of {len(features)} feature vectors hold NaN or infinity; "
            "look for images that are NaN"
        )
    return features.detach().to("cpu", torch.float64)


def as_pair(a: Tensor, b: Tensor, where: str) -> tuple[Tensor, Tensor]:
    """Check two sets of feature vectors of the same dimension; see `as_features`.

    Args:
        a: Floating point [N, D].
        b: Floating point [M, D].
        where: Who asks, for the message.

    Returns:
        float64 [N, D] and [M, D].

    Raises:
        UserError: Either is refused by `as_features`, or their dimensions differ.
    """
    a, b = as_features(a, where), as_features(b, where)
    check_dimensions(a.shape[1], b.shape[1], where)
    return a, b


def check_dimensions(a: int, b: int, where: str) -> None:
    """Refuse features of two different networks.

    Args:
        a: Dimensions of one set.
        b: Dimensions of the other.
        where: Who asks, for the message.

    Raises:
        UserError: They differ.
    """
    if a != b:
        raise UserError(
            f"{where}: one set has {a} dimensions, the other {b}; use one feature network for both"
        )
