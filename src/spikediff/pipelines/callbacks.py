"""Telling a caller of every step, in diffusers' words, and going on with what comes back."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from spikediff.errors import UserError, suggestion

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
