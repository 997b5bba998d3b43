"""The loop of all denoising pipelines: estimate, step, callback; batch-invariant."""

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from spikediff.diffusion.exact_timesteps import visiting
from spikediff.diffusion.scheduler_config import KeepsSchedule
from spikediff.diffusion.seeds import Generators
from spikediff.errors import UserError, check_number, kind_of, one_line, shown, suggestion
from spikediff.files.tensors import check_values
from spikediff.layers import batch_invariant, running_statistics

Call = TypeVar("Call", bound=Callable[..., Any])


def networks_of(pipe: Any) -> dict[str, Any]:
    """Return the networks of a pipeline by name; refuse what is no pipeline."""
    if not hasattr(pipe, "components"):
        raise UserError(f"{shown(pipe)} is not a pipeline; spikediff.load makes one")
    return {name: x for name, x in pipe.components.items() if isinstance(x, nn.Module)}


def inference(call: Call) -> Call:
    """Run a pipeline's method without gradients, in evaluation mode and batch-invariant.

    A network in training mode returns to it with unchanged buffers.
    """

    @wraps(call)
    def run(pipe: Any, *args: Any, **options: Any) -> Any:
        with torch.no_grad(), ExitStack() as stack:
            for network in networks_of(pipe).values():
                stack.enter_context(running_statistics(network))
                stack.enter_context(batch_invariant(network))
            return call(pipe, *args, **options)

    return cast(Call, run)


class Space:
    """Converts images [B, C, H, W] to what a network denoises, and back; here both are the same.

    Attributes:
        batch_axis: The axis of a sample over images.
    """

    batch_axis = 0

    def encode(self, images: Tensor) -> Tensor:
        """Return the samples of images, or of noise."""
        return images

    def decode(self, sample: Tensor) -> Tensor:
        """Return the images of samples."""
        return sample

    def seen(self, sample: Tensor) -> dict[str, Tensor]:
        """Return the tensors passed to a callback; it may replace the last of them."""
        return {"sample": sample}

    def keep(self, sample: Tensor, known: Tensor, mask: Tensor) -> Tensor:
        """Return samples with images [B, C, H, W] where the mask [B, 1, H, W] is false."""
        return torch.where(mask, sample, known)

    def check_scheduler(self, scheduler: SchedulerMixin, eta: float = 0.0) -> None:
        """Raise a `UserError` for a scheduler whose steps do not work on the samples."""


@runtime_checkable
class HasLatentSpace(Protocol):
    """A network that denoises something other than images."""

    def latent_space(self) -> Space:
        """Return the space in which it denoises."""


def space_of(unet: Any) -> Space:
    """Return the space in which a network denoises."""
    return unet.latent_space() if isinstance(unet, HasLatentSpace) else Space()


# Called as `callback(pipe, i, timestep, tensors)`; its return value may replace tensors.
StepCallback = Callable[[Any, int, Any, dict[str, Tensor]], Mapping[str, Tensor]]


class TellsOfSteps:
    """Attributes that diffusers' callbacks use; it precedes `DiffusionPipeline` in the bases."""

    _callback_tensor_inputs = ("latents", "sample", "currents")
    _interrupt = False
    _guidance_scale: float | None = None
    _num_timesteps = 0

    def progress_bar(self, iterable: Any = None, total: int | None = None) -> Any:
        """Return diffusers' progress bar of the timesteps of a call."""
        if total is not None or isinstance(iterable, Sized):
            self._num_timesteps = len(iterable) if total is None else total
        return super().progress_bar(iterable, total)  # type: ignore[misc]

    @property
    def num_timesteps(self) -> int:
        """The number of timesteps that the call visits."""
        return self._num_timesteps

    @property
    def guidance_scale(self) -> float | None:
        """The guidance of the call."""
        return self._guidance_scale

    @property
    def interrupt(self) -> bool:
        """Whether to skip the remaining steps; a callback sets `_interrupt`."""
        return self._interrupt


# The estimate `denoiser(sample, timestep)` of a network or a wrapper of one.
Denoiser = Callable[[Tensor, Any], Tensor]
# Called as `(i, timestep, sample)` after every step; its return value replaces the sample.
AfterStep = Callable[[int, Any, Tensor], Tensor]


def telling(
    pipe: TellsOfSteps,
    callback: StepCallback | None,
    seen: Callable[[Tensor], Mapping[str, Tensor]],
    inputs: Sequence[str] | None = None,
    guidance_scale: float | None = None,
) -> AfterStep:
    """Return a step hook that calls a callback and replaces the sample by its return value.

    `seen` gives the named tensors of a sample; the steps act on the last of them, which is also
    called "latents". `inputs` are the names of those to pass; None for all.
    """
    pipe._guidance_scale, pipe._interrupt = guidance_scale, False
    if callback is None and inputs is None:
        return lambda _i, _timestep, sample: sample
    if callback is not None and not callable(callback):
        raise UserError(f"callback_on_step_end = {shown(callback)} must be a function")
    if not isinstance(inputs, list | tuple | None):
        raise UserError(
            f"callback_on_step_end_tensor_inputs = {shown(inputs)} must be a list of names"
        )
    if inputs is None and isinstance(callback, PipelineCallback | MultiPipelineCallbacks):
        inputs = callback.tensor_inputs

    def tell(i: int, timestep: Any, sample: Tensor) -> Tensor:
        known = dict(seen(sample))
        state = list(known)[-1]
        known["latents"] = known[state]
        names = list(known if inputs is None else inputs)
        for name in names:
            if name not in known:
                hint = suggestion(str(name), known)
                raise UserError(f"callback_on_step_end_tensor_inputs: unknown {name!r}; {hint}")
        if callback is None:
            return sample
        returned: Any = callback(pipe, i, timestep, {name: known[name] for name in names})
        returned = {} if returned is None else returned
        if not isinstance(returned, Mapping):
            raise UserError(f"callback_on_step_end: returned {kind_of(returned)}; return a dict")
        changed = {k: v for k, v in returned.items() if k not in known or v is not known[k]}
        for name in changed:
            if name not in ("latents", state):
                raise UserError(
                    f"callback_on_step_end: returned {name!r}, which is not used; return "
                    f"{state!r} or 'latents'"
                )
        new = changed.get("latents", changed.get(state, sample))
        if not isinstance(new, Tensor) or new.shape != sample.shape:
            shape = tuple(sample.shape)
            raise UserError(f"callback_on_step_end: {state!r} must stay a tensor of shape {shape}")
        return new

    return tell


def denoise(
    denoiser: Denoiser,
    scheduler: Any,
    sample: Tensor,
    timesteps: Iterable[Tensor],
    options: Mapping[str, Any],
    after_step: AfterStep | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Tensor:
    """Return a sample after all timesteps, with one call of the denoiser for each.

    Args:
        denoiser: Called as `denoiser(sample, timestep)`; see `estimates_of`.
        scheduler: Any of diffusers' or ours, with its timesteps set.
        sample: x_t at the first timestep, of any shape.
        timesteps: Timesteps in order; may be wrapped in a progress bar.
        options: Options of the scheduler's step; see `step_options`.
        after_step: Called after every step.
        interrupted: Whether to skip the remaining steps.
    """
    for i, timestep in enumerate(timesteps):
        if interrupted():
            continue
        scaled = scheduler.scale_model_input(sample, timestep)
        estimate = finite(denoiser(scaled, timestep), timestep)
        sample = check_values(
            scheduler.step(estimate, timestep, sample, **options).prev_sample,
            f"{type(scheduler).__name__}: its step at timestep {int(timestep)}",
            "its settings do not work together, or the network's output is huge",
        )
        if after_step is not None:
            sample = after_step(i, timestep, sample)
    return sample


def check_settings(scheduler: Any, where: Path) -> None:
    """Refuse a saved scheduler, one of `SCHEDULERS`, that makes no steps.

    What a scheduler refuses itself, such as missing calibration, is left to the call.
    """
    has_row = isinstance(scheduler, KeepsSchedule)
    if not has_row:  # some of the others need more than two steps
        return
    levels, longest = scheduler.alphas_cumprod, scheduler.config.num_train_timesteps
    if not len(levels) == longest >= 1 or not bool(((levels >= 0) & (levels <= 1)).all()):
        raise UserError(f"{where}: is damaged, its betas are no noise schedule")
    made = (scheduler, getattr(scheduler, "_noise_schedule", None))  # ours delegate to the second
    for trial in (copy.deepcopy(part) for part in made if part is not None):
        try:
            trial.set_timesteps(min(2, longest))
            with torch.random.fork_rng(devices=[]):
                denoise(
                    lambda sample, _timestep: torch.zeros_like(sample),
                    trial,
                    torch.zeros(1, 1, 1, 1),
                    trial.timesteps,
                    {},
                )
        except UserError:
            continue
        except Exception as error:  # whatever is raised of a wrong value
            raise UserError(f"{where}: makes no steps ({one_line(error, 200)})") from error


def finite(estimate: Tensor, timestep: Any) -> Tensor:
    """Return a network's estimate; refuse one that is not finite, which clipping would hide."""
    return check_values(estimate, f"the network's output at timestep {int(timestep)}")


def estimates_of(unet: Any) -> Callable[..., Tensor]:
    """Return a network as a function `(sample, timestep, **more) -> estimate`.

    If the network's output has a `state`, the next call with the same number of images receives
    it, so use one function per generation.
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
    """Return the options that this scheduler's `step` takes, which diffusers does not declare."""
    known = inspect.signature(scheduler.step).parameters
    check_number("eta", eta, 0, 1)
    if eta and "eta" not in known:
        raise UserError(f"eta = {eta}: {type(scheduler).__name__} has no eta; leave it at 0")
    return {k: v for k, v in {"generator": generator, "eta": eta}.items() if k in known}


def image_shape(unet: Any) -> tuple[int, ...]:
    """Return channels, height and width of a network's images; channels and length for signals."""
    size, dimensions = unet.config.sample_size, unet.config.get("dimensions", 2)
    sizes = (size,) * dimensions if isinstance(size, int) else size
    return unet.config.in_channels, *sizes


def size_of_noise(latents: Any) -> int:
    """Return the number of images of given noise; refuse what is no tensor of several axes."""
    if not isinstance(latents, Tensor) or not latents.dim():
        raise UserError(f"latents = {shown(latents)} must be a tensor of noise, [B, C, H, W]")
    return len(latents)


def first_noise(
    unet: Any, batch_size: int, generator: Generators, device: Any, latents: Tensor | None = None
) -> Tensor:
    """Return the initial standard normal noise [B, C, H, W], or [B, C, L].

    It is the generator's first draw, or `latents` if given.
    """
    shape = (batch_size, *image_shape(unet))
    if latents is None:
        drawn: Tensor = randn_tensor(shape, generator=generator, device=device, dtype=unet.dtype)
        return drawn
    if (size_of_noise(latents), *latents.shape[1:]) != shape:
        raise UserError(f"latents of shape {tuple(latents.shape)}; this call takes noise {shape}")
    return latents.to(device, unet.dtype)


def draws_noise(scheduler: Any, eta: float = 0.0) -> bool:
    """Return whether a scheduler's step draws from a generator; it resets the timesteps."""
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    scheduler = visiting(scheduler, min(4, scheduler.config.num_train_timesteps))
    nothing, options = torch.zeros(1, 1, 1, 1), step_options(scheduler, generator, eta)
    type(scheduler).step(scheduler, nothing, scheduler.timesteps[0], nothing, **options)
    return not torch.equal(before, generator.get_state())
