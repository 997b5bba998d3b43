"""The loop that all pipelines of denoisers share: show, estimate, step, look."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from spikediff.errors import UserError
from spikediff.finite import check_values
from spikediff.pipelines.seeding import Generators
from spikediff.schedulers.exact_timesteps import visiting

# The estimate `denoiser(sample, timestep)`: of a network, or of whatever wraps one.
Denoiser = Callable[[Tensor, Any], Tensor]
# Told of every step, `(i, timestep, sample)`; what it returns is what the next step leaves from.
AfterStep = Callable[[int, Any, Tensor], Tensor]


def denoise(
    denoiser: Denoiser,
    scheduler: Any,
    sample: Tensor,
    timesteps: Iterable[Tensor],
    options: Mapping[str, Any],
    after_step: AfterStep | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Tensor:
    """Return what a sample is after all timesteps, one call of the denoiser each.

    Args:
        denoiser: Called as `denoiser(sample, timestep)`; see `estimates_of`.
        scheduler: Any of diffusers' or ours, with its timesteps set.
        sample: x_t at the first timestep: images, or currents, of any shape.
        timesteps: Those to leave, one after the other; a progress bar around them may be one.
        options: Of the scheduler's step; see `step_options`.
        after_step: Called as `after_step(i, timestep, sample)` after every step; it returns what
            goes on, the sample or what is to be put in its place.
        interrupted: Whether the steps that are left are not to be made.

    Returns:
        The sample, of the same shape.

    Raises:
        UserError: An estimate is not finite.
    """
    for i, timestep in enumerate(timesteps):
        if interrupted():
            continue
        scaled = scheduler.scale_model_input(sample, timestep)
        estimate = finite(denoiser(scaled, timestep), timestep)
        sample = scheduler.step(estimate, timestep, sample, **options).prev_sample
        if after_step is not None:
            sample = after_step(i, timestep, sample)
    return sample


def finite(estimate: Tensor, timestep: Any) -> Tensor:
    """Return a network's estimate; a scheduler that clips would hide what is not finite in it.

    Raises:
        UserError: It holds NaN or infinity.
    """
    return check_values(estimate, f"the network's output at timestep {int(timestep)}")


def estimates_of(unet: Any) -> Callable[..., Tensor]:
    """Return a network as a function from sample and timestep to its estimate.

    What else a network is to be told, it is told by keyword. A network whose output has a `state`
    is given it back in its next call of as many images: one function serves one generation.
    """
    state: Any = None

    def estimate(sample: Tensor, timestep: Any, **more: Any) -> Tensor:
        nonlocal state
        if state is not None and len(state) == len(sample):
            more["state"] = state
        answer = unet(sample, timestep, **more)
        state = getattr(answer, "state", None)
        estimated: Tensor = answer.sample
        return estimated

    return estimate


def step_options(scheduler: Any, generator: Generators = None, eta: float = 0.0) -> dict[str, Any]:
    """Return those of the options that this scheduler's `step` knows.

    Raises:
        UserError: `eta` is no share, or is not 0 and the scheduler would ignore it.
    """
    known = inspect.signature(scheduler.step).parameters
    if not 0.0 <= eta <= 1.0:
        raise UserError(f"eta = {eta} must lie in [0, 1]")
    if eta and "eta" not in known:
        raise UserError(f"eta = {eta}: {type(scheduler).__name__} has none; leave it at 0")
    return {k: v for k, v in {"generator": generator, "eta": eta}.items() if k in known}


def image_shape(unet: Any) -> tuple[int, ...]:
    """Return channels, height and width of a network's images; channels and length of signals."""
    size, dimensions = unet.config.sample_size, unet.config.get("dimensions", 2)
    sizes = (size,) * dimensions if isinstance(size, int) else size
    return unet.config.in_channels, *sizes


def first_noise(
    unet: Any, batch_size: int, generator: Generators, device: Any, latents: Tensor | None = None
) -> Tensor:
    """Return the standard normal noise [B, C, H, W], or [B, C, L], that a network starts from.

    Args:
        unet: The network.
        batch_size: How many images.
        generator: One source per image or one for all; this is the first that is drawn from it.
        device: Where the noise shall lie.
        latents: The noise itself instead.

    Raises:
        UserError: `latents` has another shape.
    """
    shape = (batch_size, *image_shape(unet))
    if latents is None:
        drawn: Tensor = randn_tensor(shape, generator=generator, device=device, dtype=unet.dtype)
        return drawn
    if tuple(latents.shape) != shape:
        raise UserError(f"latents of shape {tuple(latents.shape)}; this call takes noise {shape}")
    return latents.to(device, unet.dtype)


def draws_noise(scheduler: Any, eta: float = 0.0) -> bool:
    """Whether a scheduler's steps draw fresh noise: told by what one of them does to a generator.

    Its timesteps have to be set again afterwards.
    """
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    scheduler = visiting(scheduler, min(4, scheduler.config.num_train_timesteps))
    nothing, options = torch.zeros(1, 1, 1, 1), step_options(scheduler, generator, eta)
    scheduler.step(nothing, scheduler.timesteps[0], nothing, **options)
    return not torch.equal(before, generator.get_state())
