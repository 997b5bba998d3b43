"""Whether two ways of computing give the same, before their times are compared."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from performance.missing import Missing

FLOAT64 = 1e-6  # of the largest value; two orders of a sum differ by 1e-12, a lost spike by 1e-2


def difference(got: Tensor, want: Tensor) -> float:
    """Return the largest difference, as a share of the largest value that there should be.

    Example:
        >>> difference(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 4.0]))
        0.25
    """
    largest = want.abs().max().item()
    return (got - want).abs().max().item() / (largest or 1.0)


def relative_error(got: Iterable[Tensor], want: Iterable[Tensor]) -> float:
    """Return the length of the difference over the length of what there should be.

    Example:
        >>> relative_error([torch.tensor([3.0])], [torch.tensor([4.0])])
        0.25
    """
    off, length = 0.0, 0.0
    for a, b in zip(got, want, strict=True):
        off += (a - b).double().square().sum().item()
        length += b.double().square().sum().item()
    return math.sqrt(off / (length or 1.0))


def agreeing(
    answers: dict[str, Callable[[], tuple[Tensor, ...]]], want: tuple[Tensor, ...]
) -> tuple[dict[str, float], dict[str, str]]:
    """Return how far each answer is from the right one, and who is too far to be compared.

    Args:
        answers: Computes an answer in float64, by name.
        want: The right answer.

    Returns:
        The largest difference by name, and a reason for those that compute something else.
    """
    found: dict[str, float] = {}
    wrong: dict[str, str] = {}
    for name, answer in answers.items():
        got = answer()
        found[name] = max(difference(a, b) for a, b in zip(got, want, strict=True))
        if not found[name] <= FLOAT64:  # NaN is no agreement
            wrong[name] = f"computes something else: differs by {found[name]:.1e} in float64"
    return found, wrong


def check_shape(name: str, got: Any, want: Tensor) -> None:
    """Refuse a result of another shape, whose time would mean nothing.

    Raises:
        Missing: It is of another shape.
    """
    if tuple(got.shape) != tuple(want.shape):
        raise Missing(f"{name} returned {tuple(got.shape)} instead of {tuple(want.shape)}")
