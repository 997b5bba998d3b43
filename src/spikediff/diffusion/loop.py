"""How a pipeline runs its networks: without gradients, evaluated, and alike in every batch.

Telling a caller of every step, in diffusers' words, and going on with what comes back.

The loop that all pipelines of denoisers share: show, estimate, step, look.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from spikediff.diffusion.exact_timesteps import visiting
from spikediff.diffusion.seeds import Generators
from spikediff.errors import UserError, suggestion
from spikediff.files.tensors import check_values
from spikediff.layers import batch_invariant, running_statistics

Call = TypeVar("Call", bound=Callable[..., Any])


def inference(call: Call) -> Call:
    """Let a method of a pipeline run its networks so that an image depends on its seed alone.

    A network in training mode is evaluated, and comes back in that mode with the same buffers.
    """

    @wraps(call)
    def run(pipe: Any, *args: Any, **options: Any) -> Any:
        networks = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
        with torch.no_grad(), ExitStack() as stack:
            for network in networks:
                stack.enter_context(running_statistics(network))
                stack.enter_context(batch_invariant(network))
            return call(pipe, *args, **options)

    return cast(Call, run)


# Called as `callback(pipe, i, timestep, tensors)`; what it returns may replace what it saw.
StepCallback = Callable[[Any, int, Any, dict[str, Tensor]], Mapping[str, Tensor]]


class TellsOfSteps:
    """What diffusers' callbacks ask of a pipeline; it stands before `DiffusionPipeline`."""

    scheduler: Any
    _callback_tensor_inputs = ("latents", "sample", "currents")
    _interrupt = False
    _guidance_scale: float | None = None

    @property
    def num_timesteps(self) -> int:
        """How many timesteps the sampler visits."""
        return len(self.scheduler.timesteps)

    @property
    def guidance_scale(self) -> float | None:
        """The guidance of the call."""
        return self._guidance_scale

    @property
    def interrupt(self) -> bool:
        """Whether the steps that are left are not made; a callback sets `_interrupt`."""
        return self._interrupt


def begin(pipe: TellsOfSteps, guidance_scale: float | None) -> None:
    """Note what a callback may ask of a call."""
    pipe._guidance_scale, pipe._interrupt = guidance_scale, False


def told(
    pipe: Any,
    callback: StepCallback | None,
    inputs: Sequence[str] | None,
    step: tuple[int, Any],
    seen: Mapping[str, Tensor],
) -> Tensor:
    """Tell a callback of a step; return what the next one leaves from.

    Args:
        pipe: The pipeline.
        callback: Whom to tell; None for nobody.
        inputs: Names of what it is shown; everything where it is not given.
        step: The number of the step and its timestep.
        seen: What there is to be seen, by name; the last is what the steps act on, which is also
            called "latents".

    Raises:
        UserError: A name is unknown, or something comes back that nothing can be done with.
    """
    state = list(seen)[-1]
    if callback is None:
        return seen[state]
    known = {**seen, "latents": seen[state]}
    if inputs is None and isinstance(callback, PipelineCallback | MultiPipelineCallbacks):
        inputs = callback.tensor_inputs
    names = list(known if inputs is None else inputs)
    for name in names:
        if name not in known:
            raise UserError(
                f"callback_on_step_end_tensor_inputs: unknown {name!r}; {suggestion(name, known)}"
            )
    returned = callback(pipe, *step, {name: known[name] for name in names}) or {}
    changed = {k: v for k, v in returned.items() if k not in known or v is not known[k]}
    for name in changed:
        if name not in ("latents", state):
            raise UserError(
                f"callback_on_step_end: returned {name!r}, which nothing is done with; return "
                f"{state!r} or 'latents'"
            )
    return changed.get("latents", changed.get(state, seen[state]))


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
