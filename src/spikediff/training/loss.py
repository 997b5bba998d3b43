r"""The denoising loss: noise an image, ask the network what was done, take the squared error.

What a loss returns are its terms, already weighted: training makes their sum small and logs each.
"""

from typing import Any

import torch
from torch import Tensor, nn


def target_of(scheduler: Any, x_0: Tensor, eps: Tensor, timestep: Tensor) -> Tensor:
    r"""Return what the network should estimate.

    $\epsilon$; or $x_0$ ("sample"); or
    $v = \sqrt{\bar\alpha_t}\,\epsilon - \sqrt{1 - \bar\alpha_t}\,x_0$.
    """
    prediction_type = scheduler.config.prediction_type
    if prediction_type == "epsilon":
        return eps
    if prediction_type == "sample":
        return x_0
    velocity: Tensor = scheduler.get_velocity(x_0, eps, timestep)
    return velocity


def denoising_loss(
    model: nn.Module, scheduler: Any, x_0: Tensor, timestep: Tensor, eps: Tensor
) -> dict[str, Tensor]:
    r"""Return the term $\|f(x_t, t) - target\|^2$, averaged over all elements.

    Args:
        model: The denoiser.
        scheduler: The noise schedule, with `add_noise` and `prediction_type`.
        x_0: Images in the model's range [B, C, H, W].
        timestep: Diffusion timesteps [B].
        eps: Standard normal noise [B, C, H, W].

    Returns:
        {"denoising": the loss, 0-dim}.

    Reference: Ho et al., "Denoising diffusion probabilistic models", 2020, equation 14; v from
    Salimans and Ho, "Progressive distillation", 2022.
    """
    x_t = scheduler.add_noise(x_0, eps, timestep)
    estimate = model(x_t, timestep).sample
    target = target_of(scheduler, x_0, eps, timestep)
    return {"denoising": nn.functional.mse_loss(estimate.float(), target.float())}


def draw_noise(
    shape: tuple[int, ...], num_train_timesteps: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw a timestep [B] and noise [B, C, H, W] for every image of a whole batch."""
    timestep = torch.randint(num_train_timesteps, shape[:1], generator=generator)
    return timestep, torch.randn(shape, generator=generator)
