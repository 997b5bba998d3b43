r"""Measuring a denoiser for Analytic-DPM: the second moment of its noise estimates.

The curve is the model's own. A spiking network's estimates are weaker or noisier than those of the
ordinary network of the same shape, so that network's curve would give it the wrong variance.
"""

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from spikediff.errors import UserError
from spikediff.schedulers.prediction import image_and_noise


def calibration_timesteps(num_train_timesteps: int = 1000, count: int = 51) -> list[int]:
    r"""Return timesteps at which the second moment is worth knowing: dense near x_0.

    $t_i = (i / (count - 1))^2 (num\_train\_timesteps - 1)$, rounded, without repetitions: linear
    interpolation between them then errs about as little at the clean end, where the curve bends, as
    elsewhere.

    Args:
        num_train_timesteps: Length of the diffusion clock.
        count: How many, 2 or more; fewer come back where some coincide.

    Raises:
        UserError: There is no such grid.

    Example:
        >>> calibration_timesteps(1000, 6)
        [0, 40, 160, 360, 639, 999]
    """
    if count < 2 or num_train_timesteps < 2:
        raise UserError(f"calibration: {count} of {num_train_timesteps} timesteps; take 2 or more")
    last = num_train_timesteps - 1
    return sorted({round((i / (count - 1)) ** 2 * last) for i in range(count)})


@torch.no_grad()
def estimate_second_moment(
    denoiser: Callable[[Tensor, Any], Any],
    images: Tensor,
    alphas_cumprod: Tensor,
    timesteps: Sequence[int],
    seed: int = 0,
    batch_size: int = 64,
    prediction_type: str = "epsilon",
    device: torch.device | str | None = None,
) -> Tensor:
    r"""Estimate $h(t) = E \|\epsilon_\theta(x_t, t)\|^2 / d$ over training images.

    The mean over images k of $(\|\hat\epsilon_k\|^2 - \|\epsilon_k\|^2) / d$, plus 1: that
    $E \|\epsilon\|^2 / d = 1$ is known makes the drawn noise a control variate. Near pure noise the
    two almost agree, and there the variance hangs on the small $1 - h$, which the plain mean would
    drown. An image gets the same noise at every timestep, so the curve is smooth, and what stands
    at one timestep depends neither on the others nor on `batch_size`.

    Args:
        denoiser: `denoiser(x_t, t).sample`, in evaluation mode.
        images: Training images in the model's range [N, C, H, W]; a few hundred will do.
        alphas_cumprod: $\bar\alpha$ of every timestep [num_train_timesteps].
        timesteps: Where to measure; see `calibration_timesteps`.
        seed: What the noise depends on.
        batch_size: Images at a time.
        prediction_type: What the denoiser estimates: "epsilon", "sample" or "v_prediction".
        device: Where the denoiser is; the images' device where it is not given.

    Returns:
        h [len(timesteps)], float64 on the CPU; not below 0.

    Raises:
        UserError: There are no images, a timestep does not exist, the denoiser is in training
            mode, or its answers are not finite.

    Example:
        >>> from types import SimpleNamespace
        >>> def half(x_t, t):  # a denoiser that takes half of what it sees for noise
        ...     return SimpleNamespace(sample=0.5 * x_t)
        >>> images, alphas_cumprod = torch.zeros(100, 1, 8, 8), torch.tensor([0.9, 0.5, 0.2])
        >>> h = estimate_second_moment(half, images, alphas_cumprod, [0, 2])
        >>> torch.allclose(h, torch.tensor([0.025, 0.2]).double(), atol=0.05)
        True

    Reference: Bao et al., "Analytic-DPM", ICLR 2022, the Monte Carlo estimate Gamma (there of the
    score, which is eps over the standard deviation of the noise).
    """
    _check(denoiser, images, alphas_cumprod, timesteps, batch_size)
    moments = [
        _second_moment(
            denoiser,
            images,
            float(alphas_cumprod[t]),
            int(t),
            torch.Generator().manual_seed(seed),
            batch_size,
            prediction_type,
            images.device if device is None else device,
        )
        for t in timesteps
    ]
    h = torch.tensor(moments, dtype=torch.float64)  # [len(timesteps)]
    if not h.isfinite().all():
        raise UserError("calibration: the denoiser's answers are not finite; check the weights")
    return h.clamp(min=0.0)


def _second_moment(
    denoiser: Callable[[Tensor, Any], Any],
    images: Tensor,
    alpha_bar: float,
    timestep: int,
    generator: torch.Generator,
    batch_size: int,
    prediction_type: str,
    device: torch.device | str,
) -> float:
    """Return h at one timestep."""
    excess = 0.0
    for first in range(0, len(images), batch_size):
        x_0 = images[first : first + batch_size]
        # One draw an image: what it gets must not depend on the batch that it is in.
        noise = torch.stack([torch.randn(x.shape, generator=generator) for x in x_0])
        eps = noise.to(device, images.dtype)
        x_t = sqrt(alpha_bar) * x_0.to(device) + sqrt(1.0 - alpha_bar) * eps
        output = denoiser(x_t, timestep).sample
        _, estimate = image_and_noise(output, x_t, alpha_bar, prediction_type)
        excess += float((estimate.double().square() - eps.double().square()).sum())
    return 1.0 + excess / images.numel()


def _check(
    denoiser: object,
    images: Tensor,
    alphas_cumprod: Tensor,
    timesteps: Sequence[int],
    batch_size: int,
) -> None:
    """Refuse what cannot be measured."""
    if images.ndim < 2 or not len(images) or not images.is_floating_point():
        raise UserError("calibration: give floating-point images [N, C, H, W], at least one")
    if batch_size < 1:
        raise UserError(f"calibration: batch_size = {batch_size} must be at least 1")
    for t in timesteps:
        if not 0 <= t < len(alphas_cumprod):
            raise UserError(f"calibration: timestep {t} is not in 0 to {len(alphas_cumprod) - 1}")
    if getattr(denoiser, "training", False):
        # Batch norm in training mode would answer by the batch, and learn from it.
        raise UserError("calibration: the denoiser is in training mode; call `.eval()` first")
