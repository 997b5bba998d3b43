"""Samplers by name: ours, and diffusers' with exactly the requested timesteps.

`SCHEDULERS` maps a name to a class and to the settings that differ from the class's defaults.
`timestep_spacing="trailing"` starts at the noisiest timestep and ends at x_0 for every number of
steps, which "leading" (the default of some classes) does not. Analytic-DPM keeps its paper's
"linspace", which also visits the cleanest timestep, because its last step adds no noise.
"""

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

import spikediff
from spikediff.errors import UserError, check_known, shown

MOST_TIMESTEPS = 100_000  # of training

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
    "synaptic-ddim": ("SynapticCurrentDDIMScheduler", _COMMON),
    "analytic-dpm": ("AnalyticDPMScheduler", {"timestep_spacing": "linspace", "clip_sample": True}),
}

# Our own classes, by public name, because systems are above this layer. That of tokens has no row.
_OURS = [name for name in spikediff.__all__ if name.endswith("Scheduler")]


def _class_of(class_name: str) -> Any:
    if class_name in _OURS:
        return getattr(spikediff, class_name)
    from spikediff.diffusion.exact_timesteps import EXACT  # seconds: it imports diffusers

    return EXACT[class_name]


def make_scheduler(name: str, config: Mapping[str, Any] | None = None) -> Any:
    """Make a scheduler by name, a key of `SCHEDULERS`.

    The configuration holds the noise schedule to keep (betas, `prediction_type`, zero terminal
    SNR): keyword arguments, or the `.config` of another scheduler.

    Example:
        >>> ddpm = make_scheduler("ddpm", {"prediction_type": "v_prediction"})
        >>> make_scheduler("unipc", ddpm.config).config.prediction_type
        'v_prediction'
    """
    check_known("scheduler", name, SCHEDULERS)
    if not isinstance(config, Mapping | None):
        raise UserError(f"make_scheduler: config = {shown(config)} must be a mapping")
    class_name, settings = SCHEDULERS[name]
    stray = _only_ours() - _settings_of(class_name)
    known = {key: value for key, value in (config or {}).items() if key not in stray}
    from diffusers.configuration_utils import FrozenDict

    kept = FrozenDict(known) if isinstance(config, FrozenDict) else known
    return _class_of(class_name).from_config(kept, **settings)


@cache
def _settings_of(class_name: str) -> frozenset[str]:
    return frozenset(inspect.signature(_class_of(class_name).__init__).parameters)


@cache
def _only_ours() -> frozenset[str]:
    """Return the settings that only our classes have; diffusers' classes would warn about them."""
    from spikediff.diffusion.exact_timesteps import EXACT

    ours, theirs = (frozenset().union(*map(_settings_of, names)) for names in (_OURS, EXACT))
    return ours - theirs
