r"""Deterministic DDIM as a rotation: a scheduler that a spiking network can implement.

With $\cos\varphi_t = \sqrt{\bar\alpha_t}$, the deterministic DDIM step from timestep t to s is, for
a network that estimates v,

    I_s = cos(delta) I_t - sin(delta) v,    delta = phi_t - phi_s

and, for every prediction type, a sum of two scaled arrays. It acts on each element separately, so
it also applies to the synaptic currents of single spiking steps, without decoding them
into an image: decoding is linear, hence decode(step(I, v)) = step(decode(I), decode(v)).
There is no clipping and no noise, because neither is linear in the spikes.

Reference: Song et al., "Denoising diffusion implicit models", ICLR 2021, equation 12 with sigma 0.
"""

from collections.abc import Iterable
from itertools import pairwise
from math import atan2, cos, sin, sqrt

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from spikediff.diffusion.exact_timesteps import given_timesteps
from spikediff.diffusion.scheduler_config import image_and_noise
from spikediff.diffusion.schedules import (
    OnNoiseSchedule,
    fine_alphas_cumprod,
    fine_betas,
    noise_schedule_of,
)
from spikediff.errors import UserError


def angle(alpha_bar: float) -> float:
    r"""Return phi with $\cos\varphi = \sqrt{\bar\alpha}$: 0 for an image, $\pi/2$ for noise."""
    return atan2(sqrt(1.0 - alpha_bar), sqrt(alpha_bar))


def step_gains(
    alpha_bar_t: float, alpha_bar_s: float, prediction_type: str = "v_prediction"
) -> tuple[float, float]:
    r"""Return the two scalars of a step: $I_s = g_I\,I_t + g_o\,o$ for the network's output o.

    For "v_prediction" they are $\cos\delta$ and $-\sin\delta$. `alpha_bar_t` is that of the noisier
    end, in (0, 1), or 0 unless o estimates "epsilon"; `alpha_bar_s` is 1 for $x_0$ itself.

    Example:
        >>> [round(gain, 4) for gain in step_gains(0.5, 1.0)]  # a turn of 45 degrees
        [0.7071, -0.7071]
        >>> step_gains(0.64, 1.0, "sample")  # to x_0: the estimate itself
        (0.0, 1.0)
    """
    if prediction_type == "v_prediction":
        delta = angle(alpha_bar_t) - angle(alpha_bar_s)
        return cos(delta), -sin(delta)
    a_s, sigma_s = sqrt(alpha_bar_s), sqrt(1.0 - alpha_bar_s)
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    # The step is linear, so its gains are its results for a unit current and a unit output.
    of_current = image_and_noise(zero, one, alpha_bar_t, prediction_type)
    of_output = image_and_noise(one, zero, alpha_bar_t, prediction_type)
    gains = (a_s * x_0 + sigma_s * eps for x_0, eps in (of_current, of_output))
    g_current, g_output = (float(gain) for gain in gains)
    return g_current, g_output


class SynapticCurrentDDIMScheduler(OnNoiseSchedule):
    """Deterministic DDIM between any two timesteps, on images or on currents of any shape.

    The settings are those of diffusers' `DDPMScheduler`. The last timestep must contain some
    signal.

    Example:
        >>> scheduler = SynapticCurrentDDIMScheduler()
        >>> scheduler.set_timesteps(4)
        >>> scheduler.timesteps.tolist()
        [999, 749, 499, 249]
        >>> [round(gain, 4) for gain in scheduler.gains(249)]  # the last step, to x_0
        [0.9203, -0.3911]
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        beta_schedule: str = "squaredcos_cap_v2",
        trained_betas: list[float] | None = None,
        prediction_type: str = "v_prediction",
        timestep_spacing: str = "trailing",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
    ) -> None:
        if rescale_betas_zero_snr and prediction_type == "epsilon":
            raise UserError(
                "SynapticCurrentDDIMScheduler: rescale_betas_zero_snr leaves no image at the last "
                "timestep, which an estimate of the noise does not give back; train v_prediction"
            )
        self._noise_schedule = noise_schedule_of(self.config)
        self.betas: Tensor = fine_betas(self.config)
        self.alphas_cumprod: Tensor = fine_alphas_cumprod(self.config)
        self.set_timesteps(num_train_timesteps)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Iterable[int] | None = None,
    ) -> None:
        """Choose the timesteps to visit; the last step leads from the last of them to x_0.

        Args:
            num_inference_steps: Network calls per image, 1 to `num_train_timesteps`.
            device: The device of `timesteps`.
            timesteps: Decreasing timesteps instead of a number.

        Raises:
            UserError: Neither or both are given, or they are out of range or order.
        """
        if (num_inference_steps is None) == (timesteps is None):
            raise UserError("set_timesteps: give either num_inference_steps or timesteps")
        if timesteps is not None:
            grid = given_timesteps(timesteps, self.config.num_train_timesteps)
            self._noise_schedule.set_timesteps(timesteps=grid, device=device)
        else:
            self._noise_schedule.set_timesteps(num_inference_steps, device=device)
        self.timesteps: Tensor = self._noise_schedule.timesteps
        self.num_inference_steps = len(self.timesteps)
        visited = self.timesteps.tolist()
        self._next: dict[int, int | None] = {**dict(pairwise(visited)), visited[-1]: None}

    def gains(self, timestep: int) -> tuple[float, float]:
        """Return the two scalars of the step that leaves one of `timesteps`; see `step_gains`."""
        if timestep not in self._next:
            raise UserError(
                f"timestep {timestep} is not one of the timesteps set; see set_timesteps"
            )
        landing = self._next[timestep]
        alpha_bar_s = 1.0 if landing is None else float(self.alphas_cumprod[landing])
        alpha_bar_t = float(self.alphas_cumprod[timestep])
        return step_gains(alpha_bar_t, alpha_bar_s, self.config.prediction_type)

    def step(
        self, model_output: Tensor, timestep: int | Tensor, sample: Tensor, return_dict: bool = True
    ) -> SchedulerOutput | tuple[Tensor]:
        """Go from one of `timesteps` to the next one, or from the last one to x_0.

        Sample and model output may have any shape, the same for both: images, or currents. The
        result has `prev_sample`.

        Raises:
            UserError: The timestep is not one of those to visit.
        """
        g_current, g_output = self.gains(int(timestep))
        previous = g_current * sample + g_output * model_output
        return SchedulerOutput(prev_sample=previous) if return_dict else (previous,)
