r"""How much image and how much noise a scheduler's $x_t$ holds, and going back up to a noisier one.

Every scheduler of diffusers noises by $x_t = a_t\,x_0 + \sigma_t\,\epsilon$, with coefficients of
its own: $a^2 + \sigma^2 = 1$ for most, $a = 1$ for Euler and its kin. The map is linear, so what it
makes of a unit image and of unit noise are its coefficients.
"""

from math import sqrt
from typing import Any

import torch
from torch import Tensor

from spikediff.errors import UserError

CLEAN = (1.0, 0.0)  # the levels of x_0


def noise_levels(scheduler: Any, timestep: Tensor) -> tuple[float, float]:
    r"""Return $a_t$ and $\sigma_t$ of one of a scheduler's timesteps.

    Args:
        scheduler: Any with `add_noise`, as diffusers'.
        timestep: t, 0-dim, one of its `timesteps`.

    Example:
        >>> from spikediff.schedulers import SynapticCurrentDDIMScheduler
        >>> a, sigma = noise_levels(SynapticCurrentDDIMScheduler(), torch.tensor(499))
        >>> round(a * a + sigma * sigma, 6)
        1.0
    """
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    one, zero = one.to(timestep.device), zero.to(timestep.device)
    of_image = scheduler.add_noise(one, zero, timestep[None])
    of_noise = scheduler.add_noise(zero, one, timestep[None])
    return float(of_image), float(of_noise)


def renoise(
    sample: Tensor, noise: Tensor, clean: tuple[float, float], noisy: tuple[float, float]
) -> Tensor:
    r"""Return $x_t$ of $x_s$, s cleaner than t, by the forward process.

    $x_t = \frac{a_t}{a_s} x_s + \sqrt{\sigma_t^2 - (a_t / a_s)^2 \sigma_s^2}\;\epsilon$

    Args:
        sample: $x_s$ [...].
        noise: $\epsilon$, standard normal and independent of it, of a shape that broadcasts.
        clean: $a_s$ and $\sigma_s$, by `noise_levels`; `CLEAN` for $x_0$.
        noisy: $a_t$ and $\sigma_t$.

    Returns:
        $x_t$ [...].

    Raises:
        UserError: t is not noisier than s.

    Example:
        >>> renoise(torch.tensor(0.5), torch.tensor(-1.0), CLEAN, (0.8, 0.6))
        tensor(-0.2000)
    """
    ratio = noisy[0] / clean[0]
    added = noisy[1] ** 2 - (ratio * clean[1]) ** 2
    if added < 0.0:
        raise UserError(f"renoise: sigma = {noisy[1]:g} is not noisier than {clean[1]:g}")
    return ratio * sample + sqrt(added) * noise
