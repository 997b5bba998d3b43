r"""Surrogate gradients: replacements for the derivative of the Heaviside step.

A neuron fires $s = H(u - v_{th})$. $H'$ is zero almost everywhere, so the backward pass uses
$g(z)$, $z = u - v_{th}$, instead. Every class here is one published $g$ with its width.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor

from spikediff.errors import UserError, check_known, check_number


class Surrogate(Protocol):
    """The interface: `derivative` maps `z = u - v_threshold` to the replacement for dH/dz."""

    def derivative(self, z: Tensor) -> Tensor:
        """Return g(z), same shape as z."""


@dataclass(frozen=True)
class ATan:
    r"""$g(z) = \frac{\alpha/2}{1 + (\frac{\pi}{2}\alpha z)^2}$, unit area.

    Attributes:
        alpha: Sharpness; the width at half height is `4 / (pi * alpha)`.

    Example:
        >>> ATan(alpha=2.0).derivative(torch.tensor([0.0])).item()
        1.0

    Reference: Fang et al., "Incorporating learnable membrane time constant", ICCV 2021.
    """

    alpha: float = 2.0

    def derivative(self, z: Tensor) -> Tensor:
        """Return g(z)."""
        slope = math.pi / 2 * self.alpha
        return z.mul(slope).square_().add_(1.0).reciprocal_().mul_(self.alpha / 2)


@dataclass(frozen=True)
class Sigmoid:
    r"""$g(z) = \alpha\,\sigma(\alpha z)(1 - \sigma(\alpha z))$, unit area.

    Attributes:
        alpha: Sharpness; the width at half height is `3.53 / alpha`.

    Example:
        >>> Sigmoid(alpha=4.0).derivative(torch.tensor([0.0])).item()
        1.0

    Reference: Wu et al., "Spatio-temporal backpropagation for training high-performance spiking
    neural networks", Frontiers in Neuroscience 2018, h3.
    """

    alpha: float = 4.0

    def derivative(self, z: Tensor) -> Tensor:
        """Return g(z)."""
        s = torch.sigmoid(z * self.alpha)
        return (s - s.square()).mul_(self.alpha)


@dataclass(frozen=True)
class Rectangular:
    r"""$g(z) = \frac{1}{a}\,[\,|z - c| < a/2\,]$, unit area.

    Attributes:
        width: The full width a, in units of the membrane.
        center: c, the centre of the rectangle; 0 is the threshold. FSVAE's released code centres it
            at the membrane 0, which is c = -v_threshold.

    Example:
        >>> Rectangular(width=0.5).derivative(torch.tensor([0.0, 0.3])).tolist()
        [2.0, 0.0]

    Reference: Wu et al., "Spatio-temporal backpropagation", Frontiers in Neuroscience 2018.
    """

    width: float = 1.0
    center: float = 0.0

    def derivative(self, z: Tensor) -> Tensor:
        """Return g(z)."""
        return ((z - self.center).abs() < self.width / 2).to(z.dtype).mul_(1.0 / self.width)


@dataclass(frozen=True)
class Triangular:
    r"""$g(z) = h\,\max(0, 1 - |z|/w)$.

    Attributes:
        half_width: w, the distance from the threshold at which the gradient vanishes.
        height: h, the value at the threshold (area is `height * half_width`).

    Example:
        >>> Triangular(half_width=0.5).derivative(torch.tensor([0.0, 0.25, 1.0])).tolist()
        [1.0, 0.5, 0.0]

    Reference: Bellec et al., "Long short-term memory in networks of spiking neurons", 2018.
    """

    half_width: float = 0.5
    height: float = 1.0

    def derivative(self, z: Tensor) -> Tensor:
        """Return g(z)."""
        return z.abs().mul_(-1.0 / self.half_width).add_(1.0).clamp_(min=0.0).mul_(self.height)


SURROGATES: dict[str, type[Surrogate]] = {
    "atan": ATan,
    "sigmoid": Sigmoid,
    "rectangular": Rectangular,
    "triangular": Triangular,
}


def make_surrogate(spec: "str | Mapping[str, Any] | Surrogate") -> Surrogate:
    """Build a surrogate from a key of `SURROGATES`, or from `{"name": key, **widths}`.

    A surrogate is passed through.

    Example:
        >>> make_surrogate({"name": "rectangular", "width": 0.5})
        Rectangular(width=0.5, center=0.0)
    """
    if isinstance(spec, str):
        return make_surrogate({"name": spec})
    if not isinstance(spec, Mapping):
        return spec
    options = dict(spec)
    name = options.pop("name", None)
    check_known("surrogate", name, SURROGATES)
    known = [field.name for field in fields(SURROGATES[name])]  # type: ignore[arg-type]
    for key, value in options.items():
        if key not in known:
            raise UserError(f"surrogate {name!r}: unknown option {key!r}; it has {known}")
        check_number(f"surrogate {name!r}: {key}", value, above=None if key == "center" else 0)
    return SURROGATES[name](**options)
