r"""Analytic-DPM: the reverse variance that is optimal for a given denoiser, in closed form.

A step from timestep t down to s draws $x_s \sim N(\mu, \sigma^{*2})$ with DDIM's mean. Instead of
a fixed variance it uses the one closest to the true reverse process (Theorem 1):

    mu      = a_s x_0 + sqrt(sig_s^2 - lambda^2) eps
    lambda^2 = eta^2 (sig_s^2 / sig_t^2) (1 - abar_t / abar_s)
    sigma*^2 = lambda^2 + gamma^2 Cov[x_0 | x_t]
    gamma    = a_s - sqrt(sig_s^2 - lambda^2) a_t / sig_t
    Cov[x_0 | x_t] = (sig_t^2 / a_t^2) (1 - h(t)),    h(t) = E ||eps_theta(x_t, t)||^2 / d

for a^2 = abar, sig^2 = 1 - abar and d elements per image. The network enters only by the
curve h, one number per timestep, which `calibration.estimate_second_moment` measures.

Reference: Bao, Li, Zhu and Zhang, "Analytic-DPM: an analytic estimate of the optimal reverse
variance in diffusion probabilistic models", ICLR 2022.
"""

from itertools import pairwise
from math import pi, sqrt
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from spikediff.diffusion.scheduler_config import image_and_noise
from spikediff.diffusion.schedules import OnNoiseSchedule, noise_schedule_of
from spikediff.errors import UserError, check_number, shown

_GREY_LEVEL = 2.0 / 255.0  # one level of 8 bits, in images that reach from -1 to 1


def fresh_noise_variance(alpha_bar_t: float, alpha_bar_s: float, eta: float) -> float:
    r"""Return $\lambda^2$, the variance of $x_s$ given both $x_t$ and $x_0$.

    It is 0 for eta = 0, DDPM's posterior variance for eta = 1.

    Reference: Song et al., "Denoising diffusion implicit models", ICLR 2021, equation 16.
    """
    posterior = (1.0 - alpha_bar_s) / (1.0 - alpha_bar_t) * (1.0 - alpha_bar_t / alpha_bar_s)
    return eta**2 * posterior


def image_variance(
    alpha_bar_t: float, second_moment: float, clip_covariance: float | None = None
) -> float:
    """Return the average squared distance of $x_0$ from its estimate: $Cov[x_0 | x_t]$ per element.

    If the Monte Carlo estimate of $h(t)$ exceeds 1, the result is 0. `clip_covariance` is its upper
    bound, $((b - a)/2)^2$ for pixels in [a, b]; None sets no bound.
    """
    variance = max(0.0, (1.0 - second_moment) * (1.0 - alpha_bar_t) / alpha_bar_t)
    return variance if clip_covariance is None else min(variance, clip_covariance)


def optimal_variance(
    alpha_bar_t: float,
    alpha_bar_s: float,
    second_moment: float,
    eta: float = 1.0,
    clip_covariance: float | None = None,
) -> float:
    r"""Return the optimal variance $\sigma^{*2}$ of the step from t down to s (Theorem 1).

    It lies between $\lambda^2$ (for a perfect denoiser) and
    $\lambda^2 + \gamma^2 \min(\sigma_t^2 / \bar\alpha_t, clip)$ (for a useless one; Theorem 2).
    `alpha_bar_s` is 1 for $x_0$ itself, `second_moment` is $h(t)$.

    Example:
        >>> round(optimal_variance(0.5, 0.8, second_moment=1.0), 4)  # DDPM's "fixed_small"
        0.15
        >>> round(optimal_variance(0.5, 0.8, second_moment=0.5), 4)
        0.375
    """
    noise = fresh_noise_variance(alpha_bar_t, alpha_bar_s, eta)
    slope = sqrt((1.0 - alpha_bar_s - noise) * alpha_bar_t / (1.0 - alpha_bar_t))
    gamma = sqrt(alpha_bar_s) - slope
    return noise + gamma**2 * image_variance(alpha_bar_t, second_moment, clip_covariance)


class AnalyticDPMScheduler(OnNoiseSchedule):
    """Sampling with the optimal reverse variance, for any number of steps.

    The first eleven settings are those of diffusers' `DDPMScheduler`. The timestep spacing
    is the paper's: it visits both the noisiest and the cleanest timestep, so that little
    noise is left for the last step, which adds none. `rescale_betas_zero_snr` is refused.

    Args:
        eta: Share of fresh noise: 1 is Analytic-DDPM (the one in SDM's tables), 0 Analytic-DDIM.
        use_clipped_model_output: Whether eps is derived again from the clipped x_0, which is DDPM's
            posterior mean; False keeps the denoiser's own eps, as the authors' DDIM does.
        second_moment: h(t) at every timestep, or at those of `second_moment_timesteps`.
        second_moment_timesteps: Increasing timesteps of `second_moment`; linear between them,
            constant outside.
        clip_covariance: Bound of Cov[x_0 | x_t], by Theorem 2: 1 for pixels in [-1, 1]; it also
            keeps the variance below 1. None for no bound.
        clip_last_noise: Limit of the noise in the step to timestep 0, in 8-bit grey levels
            on average (E|sigma z| <= 2/255 times this). The authors use 2 for
            Analytic-DDPM on a linear schedule, 1 on a cosine one and for Analytic-DDIM; SDM uses
            2. None for no limit.

    Example:
        >>> h = [0.05, 0.6, 0.97, 1.0]  # from estimate_second_moment
        >>> scheduler = AnalyticDPMScheduler(
        ...     second_moment=h, second_moment_timesteps=[0, 100, 400, 999]
        ... )
        >>> scheduler.set_timesteps(4)
        >>> [(t, round(scheduler.variance(t), 4)) for t in scheduler.timesteps.tolist()]
        [(999, 0.9854), (666, 0.9689), (333, 0.0004), (0, 0.0)]

    Reference: Bao et al., the clips from the appendix and the code (`clip_pixel`), and the SDM
    authors' code.
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: list[float] | None = None,
        prediction_type: str = "epsilon",
        timestep_spacing: str = "linspace",
        steps_offset: int = 0,
        clip_sample: bool = True,
        clip_sample_range: float = 1.0,
        rescale_betas_zero_snr: bool = False,
        eta: float = 1.0,
        use_clipped_model_output: bool = True,
        second_moment: list[float] | None = None,
        second_moment_timesteps: list[int] | None = None,
        clip_covariance: float | None = 1.0,
        clip_last_noise: float | None = 2.0,
    ) -> None:
        if rescale_betas_zero_snr:
            raise UserError(
                "AnalyticDPMScheduler: rescale_betas_zero_snr leaves no signal at the last "
                "timestep, where the variance is then undefined; sample with ddim"
            )
        check_number("AnalyticDPMScheduler: eta", eta, 0, 1)
        self._noise_schedule = noise_schedule_of(self.config)
        self.betas: Tensor = self._noise_schedule.betas
        self.alphas_cumprod: Tensor = self._noise_schedule.alphas_cumprod
        self.timesteps: Tensor = self._noise_schedule.timesteps
        self.num_inference_steps: int | None = None
        self._second_moment: list[float] | None = None
        if second_moment is not None:
            every = range(len(self.betas))
            grid = list(every if second_moment_timesteps is None else second_moment_timesteps)
            check_measured(second_moment, grid, clip_last_noise, every[-1])
            self._second_moment = np.interp(every, grid, second_moment).tolist()

    def set_timesteps(
        self, num_inference_steps: int, device: str | torch.device | None = None
    ) -> None:
        """Choose the timesteps to visit, 1 to `num_train_timesteps`; needs `second_moment`."""
        self._require_second_moment()
        self._noise_schedule.set_timesteps(num_inference_steps, device=device)
        self.num_inference_steps = num_inference_steps
        self.timesteps = self._noise_schedule.timesteps

    def variance(self, timestep: int) -> float:
        r"""Return $\sigma^2$ of the noise in the step that leaves `timestep`; none onto x_0."""
        second_moment = self._require_second_moment()[timestep]
        landing = self._next_timestep(timestep)
        if landing is None:
            return 0.0
        variance = optimal_variance(
            self._alpha_bar(timestep),
            self._alpha_bar(landing),
            second_moment,
            self.config.eta,
            self.config.clip_covariance,
        )
        if landing == 0 and self.config.clip_last_noise is not None:
            # E|sigma z| = sigma sqrt(2 / pi) for a standard normal z
            largest = self.config.clip_last_noise * _GREY_LEVEL * sqrt(pi / 2)
            variance = min(variance, largest**2)
        return variance

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> DDPMSchedulerOutput | tuple[Tensor, Tensor]:
        """Go from x_t to the next timestep of `timesteps`, or from the last one to x_0.

        Args:
            model_output: The denoiser's output [B, ...].
            timestep: t.
            sample: x_t [B, ...].
            generator: Source of the noise; a list has one for every image.
            variance_noise: Standard normal noise [B, ...] instead of a generator.
            return_dict: False returns a tuple.

        Returns:
            `prev_sample`, x_s [B, ...], and `pred_original_sample`, the estimate of x_0 [B, ...].
        """
        t = int(timestep)
        variance = self.variance(t)
        # Half precision would lose the difference of two almost equal images.
        dtype = torch.promote_types(sample.dtype, torch.float32)
        x_0, eps = self._image_and_noise(model_output.to(dtype), sample.to(dtype), t)
        x_s = self._mean(x_0, eps, t)
        if variance > 0.0:
            noise = variance_noise
            if noise is None:
                noise = randn_tensor(
                    sample.shape, generator=generator, device=sample.device, dtype=dtype
                )
            x_s = x_s + sqrt(variance) * noise
        x_s, x_0 = x_s.to(sample.dtype), x_0.to(sample.dtype)
        if not return_dict:
            return x_s, x_0
        return DDPMSchedulerOutput(prev_sample=x_s, pred_original_sample=x_0)

    def _require_second_moment(self) -> list[float]:
        if self._second_moment is None:
            raise UserError(
                "AnalyticDPMScheduler: the model's second moment is unknown; "
                "run `spikediff calibrate` on its folder, or choose another scheduler"
            )
        return self._second_moment

    def _alpha_bar(self, timestep: int | None) -> float:
        return 1.0 if timestep is None else float(self.alphas_cumprod[timestep])

    def _next_timestep(self, timestep: int) -> int | None:
        """Return the next, cleaner timestep to visit; None means x_0."""
        return max((t for t in self.timesteps.tolist() if t < timestep), default=None)

    def _image_and_noise(self, output: Tensor, x_t: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """Return the estimates of x_0 and eps, clipped as the settings say."""
        alpha_bar = self._alpha_bar(t)
        x_0, eps = image_and_noise(output, x_t, alpha_bar, self.config.prediction_type)
        if not self.config.clip_sample:
            return x_0, eps
        limit = self.config.clip_sample_range
        x_0 = x_0.clamp(-limit, limit)
        if self.config.use_clipped_model_output:
            return image_and_noise(x_0, x_t, alpha_bar, "sample")
        return x_0, eps

    def _mean(self, x_0: Tensor, eps: Tensor, t: int) -> Tensor:
        """Return mu = a_s x_0 + sqrt(sig_s^2 - lambda^2) eps."""
        abar_t, abar_s = self._alpha_bar(t), self._alpha_bar(self._next_timestep(t))
        noise = fresh_noise_variance(abar_t, abar_s, self.config.eta)
        return sqrt(abar_s) * x_0 + sqrt(1.0 - abar_s - noise) * eps


def check_measured(
    second_moment: Any, second_moment_timesteps: Any, clip_last_noise: Any, last_timestep: Any
) -> None:
    """Refuse settings of `AnalyticDPMScheduler` that no calibration measures."""
    name, moments, grid = "AnalyticDPMScheduler: ", second_moment, second_moment_timesteps
    if not isinstance(moments, list | tuple):
        raise UserError(
            f"{name}second_moment must be a list of finite numbers; a tensor has `.tolist()`"
        )
    for moment in moments:
        check_number(f"{name}second_moment", moment)
    if len(moments) != len(grid):
        raise UserError(f"{name}second_moment has {len(moments)} numbers for {len(grid)} timesteps")
    inside = all(isinstance(t, int | np.integer) and 0 <= t <= last_timestep for t in grid)
    if not grid or not inside or any(b <= a for a, b in pairwise(grid)):
        raise UserError(
            f"{name}second_moment_timesteps must be whole numbers that increase, within 0 to "
            f"{shown(last_timestep)}"
        )
    clip = clip_last_noise
    if clip is not None:
        check_number(f"{name}clip_last_noise", clip, 0)
