"""Noise schedules and samplers: diffusers', by name. They know no spike.

`SCHEDULERS` says which diffusers class a name stands for and which of its settings differ from
diffusers' defaults. `timestep_spacing="trailing"` starts at the noisiest timestep and ends at
x_0 for every number of steps, which "leading" (the default of some classes) does not.
"""

from collections.abc import Mapping
from typing import Any

from spikediff.errors import UserError, suggestion

_COMMON: dict[str, Any] = {"timestep_spacing": "trailing"}

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("DDPMScheduler", {**_COMMON, "clip_sample": True}),
    "ddim": ("DDIMScheduler", {**_COMMON, "clip_sample": True}),
    "dpmsolver++": (
        "DPMSolverMultistepScheduler",
        {**_COMMON, "algorithm_type": "dpmsolver++", "solver_order": 2},
    ),
    "unipc": ("UniPCMultistepScheduler", {**_COMMON, "solver_order": 2}),
    "deis": ("DEISMultistepScheduler", {**_COMMON, "solver_order": 2}),
}


def make_scheduler(name: str, config: Mapping[str, Any] | None = None) -> Any:
    """Make a diffusers scheduler by name.

    Args:
        name: Key of `SCHEDULERS`.
        config: Noise schedule to keep (betas, `prediction_type`, ...): keyword arguments or the
            `.config` of another scheduler.

    Returns:
        The scheduler.

    Raises:
        UserError: The name is unknown.

    Example:
        >>> ddpm = make_scheduler("ddpm", {"prediction_type": "v_prediction"})
        >>> make_scheduler("unipc", ddpm.config).config.prediction_type
        'v_prediction'
    """
    if name not in SCHEDULERS:
        raise UserError(f"unknown scheduler {name!r}; {suggestion(name, SCHEDULERS)}")
    import diffusers  # seconds; only whoever makes a scheduler pays for it

    class_name, settings = SCHEDULERS[name]
    return getattr(diffusers, class_name).from_config(dict(config or {}), **settings)


__all__ = ["SCHEDULERS", "make_scheduler"]
