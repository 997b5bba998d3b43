"""Scales that change over the denoising steps."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from spikediff.errors import UserError

Schedule = Callable[[float], float]
"""From the timestep to the scale."""


class StepSchedule:
    """One scale for every denoising step of a run, in the order of sampling.

    A step ends where the timestep falls, so a sampler that calls the model twice at one timestep
    is in one step. A timestep that rises begins another run.

    Args:
        scales: One a step.

    Raises:
        UserError: There are none.

    Example:
        >>> schedule = StepSchedule([0.98, 1.0])
        >>> [schedule(t) for t in (900, 400, 900, 400)]
        [0.98, 1.0, 0.98, 1.0]
    """

    def __init__(self, scales: Sequence[float]) -> None:
        if not scales:
            raise UserError("threshold_guidance: the schedule is empty; give a scale for each step")
        self._scales = tuple(scales)
        self._step = 0
        self._timestep: float | None = None  # of the call before

    def __call__(self, timestep: float) -> float:
        """Return the scale of a call.

        Raises:
            UserError: The run has more steps than scales, or the one before had fewer.
        """
        if self._timestep is None or timestep > self._timestep:
            self.finish()
            self._step = 0
        elif timestep < self._timestep:
            self._step += 1
        self._timestep = timestep
        if self._step >= len(self._scales):
            raise UserError(f"threshold_guidance: {self._told()} a step beyond; give one each")
        return self._scales[self._step]

    def finish(self) -> None:
        """Refuse a run that ended before the schedule did.

        Raises:
            UserError: It did.
        """
        if self._timestep is not None and self._step + 1 < len(self._scales):
            raise UserError(
                f"threshold_guidance: {self._told()} only {self._step + 1} steps; give one each"
            )

    def _told(self) -> str:
        return f"the schedule has {len(self._scales)} scales, but the run has"


def timestep_of(inputs: Sequence[Any], options: Mapping[str, Any]) -> float:
    """Return the timestep of a call `model(sample, timestep)`.

    Args:
        inputs: Positional arguments of the call.
        options: Keyword arguments.

    Raises:
        UserError: There is none, or images of one batch have different ones.

    Example:
        >>> timestep_of(["sample"], {"timestep": 999})
        999.0
    """
    timestep = options.get("timestep", inputs[1] if len(inputs) > 1 else None)
    if isinstance(timestep, Tensor) and timestep.numel():
        first = timestep.flatten()[0]
        timestep = first.item() if bool((timestep == first).all()) else None
    if not isinstance(timestep, int | float):
        raise UserError(
            "threshold_guidance: a schedule needs model(sample, timestep) with one timestep for "
            "all images"
        )
    return float(timestep)
