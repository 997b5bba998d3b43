"""How a cost grows: the power law that fits it best."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PowerLaw:
    """`y = factor * x ** exponent`.

    Attributes:
        factor: y at x = 1.
        exponent: The slope over logarithms.
        error: Standard error of the exponent; NaN where two points leave none.
        last: The exponent between the last two points alone: what a fixed cost hides least of.
    """

    factor: float
    exponent: float
    error: float
    last: float


def fit_power_law(x: Sequence[float], y: Sequence[float]) -> PowerLaw:
    """Fit a line to the logarithms by least squares.

    Args:
        x: At least two positive values, rising.
        y: What was measured there, positive.

    Example:
        >>> law = fit_power_law([1, 2, 4], [3, 12, 48])
        >>> round(law.factor, 6), round(law.exponent, 6)
        (3.0, 2.0)
    """
    u, v = [math.log(value) for value in x], [math.log(value) for value in y]
    mean_u, mean_v = sum(u) / len(u), sum(v) / len(v)
    spread = sum((a - mean_u) ** 2 for a in u)
    slope = sum((a - mean_u) * (b - mean_v) for a, b in zip(u, v, strict=True)) / spread
    start = mean_v - slope * mean_u
    left = sum((b - start - slope * a) ** 2 for a, b in zip(u, v, strict=True))
    error = math.sqrt(left / (len(u) - 2) / spread) if len(u) > 2 else math.nan
    return PowerLaw(math.exp(start), slope, error, (v[-1] - v[-2]) / (u[-1] - u[-2]))
