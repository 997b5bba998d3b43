"""Reconstruction error: mean squared error and structural similarity.

Reference:
    Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity",
    eq. 13 and section III-C.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from spikediff.errors import UserError, check_number

WINDOW, SIGMA = 11, 1.5  # pixels
K1, K2 = 0.01, 0.03
IMAGES_AT_ONCE = 256  # bounds the memory of the blurred moments


def mse(a: Tensor, b: Tensor) -> float:
    """Return the mean squared error per pixel of images [B, C, H, W].

    Example:
        >>> mse(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5))
        0.25
    """
    _check(a, b, "mse")
    return float((a.double() - b.double()).square().mean())


def ssim(a: Tensor, b: Tensor, data_range: float, overhang: bool = False) -> float:
    """Return the mean structural similarity, over images, channels and window positions.

        SSIM = (2 mu_a mu_b + C1)(2 sigma_ab + C2) / ((mu_a^2 + mu_b^2 + C1)(s_a^2 + s_b^2 + C2))

    with C = (K L)^2 and moments under a Gaussian window of 11 pixels and sigma 1.5. The formula and
    its constants assume values from 0 upwards; for data centred at 0 the luminance term is
    unreliable.

    Args:
        a: Images [B, C, H, W], any type; H and W at least 11.
        b: Images of the same shape and range.
        data_range: L, the span of the pixel values: 255 for uint8, 2 for [-1, 1], 1 for [0, 1].
            There is no default, because a wrong value changes the result without an error.
        overhang: Whether windows may overlap the edge, with zeros outside the image, as in the
            code of Spiking-Diffusion.

    Raises:
        UserError: The shapes differ, an image is smaller than the window, `data_range` is not
            positive, or a value is NaN or infinite.

    Example:
        >>> round(ssim(torch.zeros(1, 1, 11, 11), torch.ones(1, 1, 11, 11), data_range=1.0), 6)
        0.0001
    """
    _check(a, b, "ssim")
    if min(a.shape[-2:]) < WINDOW:
        size = f"{a.shape[-2]}x{a.shape[-1]}"
        raise UserError(f"ssim: images of {size} are smaller than its window of {WINDOW} pixels")
    check_number("ssim: data_range", data_range, above=0)
    parts = zip(torch.split(a, IMAGES_AT_ONCE), torch.split(b, IMAGES_AT_ONCE), strict=True)
    edge = WINDOW // 2 if overhang else 0
    total = sum(float(_ssim_map(x.double(), y.double(), data_range, edge).sum()) for x, y in parts)
    lost = WINDOW - 1 - 2 * edge
    positions = (a.shape[-2] - lost) * (a.shape[-1] - lost)
    return total / (a.shape[0] * a.shape[1] * positions)


def _ssim_map(a: Tensor, b: Tensor, data_range: float, edge: int) -> Tensor:
    """Return the similarity at every window position, [B C, 1, H - 10, W - 10] or larger."""
    a, b = (x.flatten(0, 1)[:, None] for x in (a, b))  # [B C, 1, H, W]: channels are images
    C1, C2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    mean_a, mean_b, square_a, square_b, product = (
        _windowed(F.pad(x, [edge] * 4)) for x in (a, b, a * a, b * b, a * b)
    )
    variances = square_a - mean_a**2 + square_b - mean_b**2
    covariance = product - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    structure = (2 * covariance + C2) / (variances + C2)
    return luminance * structure


def _windowed(x: Tensor) -> Tensor:
    """Average [N, 1, H, W] under the Gaussian window, at the positions inside the image."""
    offsets = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    weights = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    weights = weights / weights.sum()
    across = F.conv2d(x, weights.view(1, 1, 1, WINDOW))
    return F.conv2d(across, weights.view(1, 1, WINDOW, 1))


def _check(a: Tensor, b: Tensor, where: str) -> None:
    if a.shape != b.shape or a.ndim != 4 or a.numel() == 0:
        shapes = f"{list(a.shape)} and {list(b.shape)}"
        raise UserError(f"{where}: images of shapes {shapes}; pass two equal [B, C, H, W]")
    if not (a.isfinite().all() and b.isfinite().all()):
        raise UserError(f"{where}: an image holds NaN or infinity")
