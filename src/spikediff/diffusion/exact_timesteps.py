"""diffusers' samplers with exactly the requested timesteps.

In diffusers, "trailing" spacing counts down in floats, so that 61 of 1,000 timesteps become 62, the
last of them -1. Some spacings repeat a timestep, or start at the clean end. And DDIM steps down by
`num_train_timesteps // num_inference_steps`, which misses the next timestep unless one number
divides the other. A class here has the name and the module of the class it corrects, so that a
saved pipeline names diffusers' class, and plain diffusers can load it.
"""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from functools import wraps
from itertools import pairwise
from typing import Any

import torch
from diffusers.schedulers import (
    scheduling_ddim,
    scheduling_ddpm,
    scheduling_deis_multistep,
    scheduling_dpmsolver_multistep,
    scheduling_unipc_multistep,
)
from torch import Tensor

from spikediff.diffusion.scheduler_config import KeepsSchedule
from spikediff.errors import UserError, check_number, shown

# With one of these, sigmas are chosen first, and timesteps may be fractional.
_BY_SIGMAS = (
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_flow_sigmas",
    "use_lu_lambdas",
)


def _exactly(theirs: type[Any]) -> Callable[..., None]:
    """Return a class's `set_timesteps`, with exactly the requested timesteps."""

    @wraps(theirs.set_timesteps)
    def set_timesteps(
        self: Any, num_inference_steps: int | None = None, *args: Any, **options: Any
    ) -> None:
        if num_inference_steps is None:  # the timesteps themselves are given
            theirs.set_timesteps(self, None, *args, **options)
            return
        check_steps(num_inference_steps, self.config.num_train_timesteps)
        theirs.set_timesteps(self, num_inference_steps, *args, **options)
        if not _by_sigmas(self):
            _visit(self, _grid(self, num_inference_steps))
        check_timesteps(self, num_inference_steps)

    return set_timesteps


def _by_sigmas(scheduler: Any) -> bool:
    return any(scheduler.config.get(key) for key in _BY_SIGMAS)


def _grid(scheduler: Any, steps: int) -> list[int]:
    """Return the timesteps that diffusers set, if they are valid, distinct and as many as asked."""
    longest = scheduler.config.num_train_timesteps
    if steps == longest:
        return list(range(longest - 1, -1, -1))
    if steps == 1 and scheduler.config.timestep_spacing == "linspace":
        return [longest - 1]  # one point of linspace is its clean end
    return [int(timestep) for timestep in scheduler.timesteps[:steps]]


def _visit(scheduler: Any, grid: list[int]) -> None:
    """Set timesteps, and the sigmas of a class that has them."""
    if grid == scheduler.timesteps.tolist():
        return
    scheduler.timesteps = torch.tensor(grid, device=scheduler.timesteps.device)
    scheduler.num_inference_steps = len(grid)
    if hasattr(scheduler, "sigmas"):
        table = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod) ** 0.5
        scheduler.sigmas = torch.cat([table[grid].cpu().float(), scheduler.sigmas[-1:]])


class _Exact(KeepsSchedule):
    """Corrects a class of diffusers; it precedes that class in the bases."""

    def __init_subclass__(cls) -> None:
        """Adopt the module and correct the timesteps of diffusers' class."""
        theirs = cls.__bases__[1]
        cls.__module__ = theirs.__module__
        cls.set_timesteps = _exactly(theirs)  # type: ignore[attr-defined]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _restored, (type(self).__bases__[1], self.__dict__)


def _restored(theirs: type[Any], state: dict[str, Any]) -> Any:
    scheduler = object.__new__(theirs)
    scheduler.__dict__.update(state)
    return exact(scheduler)


class DDPMScheduler(_Exact, scheduling_ddpm.DDPMScheduler):
    """DDPM, whose step onto x_0 adds no noise."""

    @wraps(scheduling_ddpm.DDPMScheduler._get_variance)
    def _get_variance(self, t: int, *args: Any, **options: Any) -> Any:
        variance = super()._get_variance(t, *args, **options)
        # "fixed_large" does not shrink towards x_0; diffusers omits it only at timestep 0.
        last = self.variance_type == "fixed_large" and int(t) == int(self.timesteps[-1])
        return torch.zeros_like(variance) if last else variance


class DDIMScheduler(_Exact, scheduling_ddim.DDIMScheduler):
    """DDIM, whose step lands on the next timestep."""

    num_inference_steps: Any

    @wraps(scheduling_ddim.DDIMScheduler.step)
    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **options: Any
    ) -> Any:
        """Go from a timestep to the next of `timesteps`, or from the last one to x_0."""
        steps = self.num_inference_steps
        if steps is not None:
            t = int(timestep)
            landing = max((s for s in self.timesteps.tolist() if s < t), default=-1)
            # diffusers goes down by longest // steps: here, by the way to the next timestep.
            self.num_inference_steps = Fraction(self.config.num_train_timesteps, t - landing)
        try:
            return super().step(model_output, timestep, sample, *args, **options)
        finally:
            self.num_inference_steps = steps


class DPMSolverMultistepScheduler(
    _Exact, scheduling_dpmsolver_multistep.DPMSolverMultistepScheduler
):
    """DPM-Solver++."""


class UniPCMultistepScheduler(_Exact, scheduling_unipc_multistep.UniPCMultistepScheduler):
    """UniPC."""


class DEISMultistepScheduler(_Exact, scheduling_deis_multistep.DEISMultistepScheduler):
    """DEIS."""


EXACT: dict[str, type[Any]] = {cls.__name__: cls for cls in _Exact.__subclasses__()}


def exact(scheduler: Any) -> Any:
    """Return a view of a scheduler, with shared state, that visits exactly the requested timesteps.

    A scheduler of a class that is not corrected here is returned unchanged.
    """
    theirs = type(scheduler)
    corrected = EXACT.get(theirs.__name__)
    if corrected is None or corrected.__bases__[1] is not theirs:
        return scheduler
    view: Any = object.__new__(corrected)
    view.__dict__ = scheduler.__dict__
    return view


def visiting(
    scheduler: Any,
    num_inference_steps: int,
    device: Any = None,
    timesteps: Sequence[int] | None = None,
) -> Any:
    """Return the scheduler that makes the steps of a call (see `exact`), with its timesteps set.

    The timesteps of the given scheduler, with which it shares its state, are set too.

    Raises:
        UserError: There are too few or too many steps; or the given timesteps do not decrease, are
            out of range, or are not supported by the scheduler.
    """
    sampler = exact(scheduler)
    longest = sampler.config.num_train_timesteps
    if timesteps is not None:
        _visit_given(sampler, given_timesteps(timesteps, longest), device)
        return sampler
    check_steps(num_inference_steps, longest)
    sampler.set_timesteps(num_inference_steps, device=device)
    check_timesteps(sampler, num_inference_steps)
    return sampler


def _visit_given(scheduler: Any, grid: list[int], device: Any) -> None:
    """Set the timesteps that the caller gave."""
    if not isinstance(scheduler, _Exact) or _by_sigmas(scheduler):
        raise UserError(
            f"{type(scheduler).__name__}: does not support timesteps; give "
            f"num_inference_steps, or choose one of {', '.join(EXACT)}"
        )
    settable: Any = scheduler
    settable.set_timesteps(len(grid), device=device)
    _visit(scheduler, grid)


def given_timesteps(timesteps: Iterable[int], longest: int) -> list[int]:
    """Return timesteps as numbers; refuse none, and those out of order or range."""
    try:
        grid = [int(t) for t in timesteps]
    except (TypeError, ValueError):
        raise UserError(f"timesteps = {shown(timesteps)} must be a list of numbers") from None
    if not grid or not _falling(grid) or not _in_training(grid, longest):
        raise UserError(f"timesteps = {grid} must decrease, between {longest - 1} and 0")
    return grid


def _falling(timesteps: Sequence[float]) -> bool:
    return all(later < earlier for earlier, later in pairwise(timesteps))


def _in_training(timesteps: Sequence[float], longest: int) -> bool:
    return all(0 <= timestep < longest for timestep in timesteps)


def check_steps(num_inference_steps: int, longest: int) -> None:
    """Raise a `UserError` for a number of steps outside 1 to `longest`."""
    check_number("num_inference_steps", num_inference_steps, 1, longest, whole=True)


def check_timesteps(scheduler: Any, num_inference_steps: int) -> None:
    """Raise a `UserError` for timesteps out of range, or other than the requested ones.

    Some of diffusers' schedulers that are not corrected here call the network twice per step.
    """
    timesteps, longest = scheduler.timesteps.tolist(), scheduler.config.num_train_timesteps
    ordered = _falling(timesteps) or _by_sigmas(scheduler)
    exact_ones = len(timesteps) == num_inference_steps and ordered
    if not _in_training(timesteps, longest) or (
        isinstance(scheduler, KeepsSchedule) and not exact_ones
    ):
        raise UserError(
            f"{type(scheduler).__name__}: num_inference_steps = {num_inference_steps} gives "
            f"{len(timesteps)} timesteps from {max(timesteps)} to {min(timesteps)}; choose another "
            f"number, or timestep_spacing='trailing' with steps_offset=0"
        )
