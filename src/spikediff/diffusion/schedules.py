r"""Noise schedules: diffusers' own, its table in double precision, and the levels of a timestep.

diffusers stores the table of $\bar\alpha$ in float32, which loses half of the digits of
$1 - \bar\alpha$ at the first timesteps, and so of the angle of the last steps to $x_0$.

Every scheduler of diffusers noises by $x_t = a_t\,x_0 + \sigma_t\,\epsilon$, with
$a^2 + \sigma^2 = 1$ for most and $a = 1$ for Euler and its kin. The map is linear, so a unit image
and unit noise show both coefficients.
"""

import math
from collections.abc import Mapping
from math import sqrt
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from torch import Tensor

from spikediff.diffusion.exact_timesteps import DDPMScheduler
from spikediff.diffusion.scheduler_config import KeepsSchedule
from spikediff.errors import UserError

_LARGEST_BETA = 0.999
_SETTINGS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "timestep_spacing",
    "steps_offset",
    "rescale_betas_zero_snr",
)


def noise_schedule_of(config: Mapping[str, Any]) -> DDPMScheduler:
    """Return diffusers' scheduler for a configuration, which spaces timesteps and noises images."""
    return DDPMScheduler(**{key: config[key] for key in _SETTINGS})


class OnNoiseSchedule(KeepsSchedule, SchedulerMixin, ConfigMixin):
    """Base of our schedulers, which delegate noising and spacing to one of diffusers' schedules.

    A subclass sets `_noise_schedule` in its constructor and defines `step`.
    """

    _compatibles = [scheduler.name for scheduler in KarrasDiffusionSchedulers]  # noqa: RUF012
    order = 1
    init_noise_sigma = 1.0
    _noise_schedule: DDPMScheduler

    def scale_model_input(self, sample: Tensor, timestep: int | Tensor | None = None) -> Tensor:
        """Return the sample unchanged: the denoiser takes x_t itself."""
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return x_t for images x_0 [B, ...], noise [B, ...] and timesteps [B]."""
        noisy: Tensor = self._noise_schedule.add_noise(original_samples, noise, timesteps)
        return noisy

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return v for images x_0 [B, ...], noise [B, ...] and timesteps [B]."""
        velocity: Tensor = self._noise_schedule.get_velocity(sample, noise, timesteps)
        return velocity

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)


def fine_betas(config: Mapping[str, Any]) -> Tensor:
    """Return the betas of a diffusers scheduler's configuration in float64 [num_train_timesteps].

    Reference: the cosine schedule is that of Nichol and Dhariwal, "Improved denoising diffusion
    probabilistic models", 2021, equation 17.
    """
    betas = _betas(config)
    return _without_last_signal(betas) if config.get("rescale_betas_zero_snr") else betas


def _betas(config: Mapping[str, Any]) -> Tensor:
    trained = config.get("trained_betas")
    if trained is not None:
        return torch.as_tensor(trained, dtype=torch.float64)
    count, kind = config["num_train_timesteps"], config["beta_schedule"]
    first, last = config["beta_start"], config["beta_end"]
    if kind == "linear":
        return torch.linspace(first, last, count, dtype=torch.float64)
    if kind == "scaled_linear":
        return torch.linspace(first**0.5, last**0.5, count, dtype=torch.float64).square()
    if kind != "squaredcos_cap_v2":
        raise UserError(f"beta_schedule = {kind!r}: is not supported here; choose another")
    level = torch.tensor([_cosine(t / count) for t in range(count + 1)], dtype=torch.float64)
    return (1.0 - level[1:] / level[:-1]).clamp(max=_LARGEST_BETA)


def _without_last_signal(betas: Tensor) -> Tensor:
    r"""Return betas whose last $\bar\alpha$ is 0 and whose first is as it was.

    Reference: Lin et al., "Common diffusion noise schedules and sample steps are flawed", WACV
    2024, algorithm 1.
    """
    signal = torch.cumprod(1.0 - betas, dim=0).sqrt()
    signal = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
    alphas_cumprod = signal.square()
    return 1.0 - torch.cat([alphas_cumprod[:1], alphas_cumprod[1:] / alphas_cumprod[:-1]])


def _cosine(share: float) -> float:
    return math.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2


def fine_alphas_cumprod(config: Mapping[str, Any]) -> Tensor:
    r"""Return $\bar\alpha$ of a scheduler's configuration in float64; see `fine_betas`."""
    return torch.cumprod(1.0 - fine_betas(config), dim=0)


CLEAN = (1.0, 0.0)  # the levels of x_0


def noise_levels(scheduler: Any, timestep: Tensor) -> tuple[float, float]:
    r"""Return $a_t$ and $\sigma_t$ of t, 0-dim, one of a scheduler's timesteps."""
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    one, zero = one.to(timestep.device), zero.to(timestep.device)
    of_image = scheduler.add_noise(one, zero, timestep[None])
    of_noise = scheduler.add_noise(zero, one, timestep[None])
    return float(of_image), float(of_noise)


def renoise(
    sample: Tensor, noise: Tensor, clean: tuple[float, float], noisy: tuple[float, float]
) -> Tensor:
    r"""Return $x_t$ of $x_s$, s cleaner than t, by the forward process.

    $x_t = \frac{a_t}{a_s} x_s + \sqrt{\sigma_t^2 - (a_t / a_s)^2 \sigma_s^2}\;\epsilon$, with the
    levels (a, sigma) of `noise_levels`; `CLEAN` are those of $x_0$. The noise is standard normal
    and independent of $x_s$.
    """
    ratio = noisy[0] / clean[0]
    added = noisy[1] ** 2 - (ratio * clean[1]) ** 2
    if added < 0.0:
        raise UserError(f"renoise: sigma = {noisy[1]:g} is not noisier than {clean[1]:g}")
    return ratio * sample + sqrt(added) * noise
