"""How far an image is noised before it is denoised: the strength of an edit."""

from typing import Any

from torch import Tensor

from spikediff.errors import UserError
from spikediff.schedulers.exact_timesteps import visiting


def steps_of_strength(strength: float, num_inference_steps: int) -> int:
    """Return how many of the steps an edit makes: the share `strength`, rounded down.

    Raises:
        UserError: The strength lies outside (0, 1], or leaves no step.

    Example:
        >>> steps_of_strength(0.3, 50)
        15
    """
    if not 0.0 < strength <= 1.0:
        raise UserError(f"strength = {strength} must lie in (0, 1]; 1 keeps nothing of the image")
    count = int(round(num_inference_steps * strength, 6))  # 0.29 of 100 is 29 and not 28.99...
    if count == 0:
        raise UserError(
            f"strength = {strength} of {num_inference_steps} steps is less than one; raise either"
        )
    return count


def timesteps_of_strength(
    scheduler: Any, num_inference_steps: int, strength: float, device: Any
) -> tuple[Any, Tensor]:
    """Set a scheduler's timesteps; return it as it visits them, and the last: the share `strength`.

    Args:
        scheduler: Any of diffusers' or ours.
        num_inference_steps: Steps from noise to image.
        strength: Share of them, in (0, 1].
        device: Where the timesteps shall lie.

    Raises:
        UserError: The strength lies outside (0, 1], or leaves no step.
    """
    count = steps_of_strength(strength, num_inference_steps)
    sampler = visiting(scheduler, num_inference_steps, device)
    left_out = (num_inference_steps - count) * sampler.order  # Heun calls twice a step
    chosen: Tensor = sampler.timesteps[left_out:]
    return sampler, chosen
