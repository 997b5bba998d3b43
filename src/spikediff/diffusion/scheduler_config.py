r"""The meaning of a denoiser's output, and the settings of a noise schedule to preserve.

With $x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1 - \bar\alpha_t}\,\epsilon$, either of the two gives
the other, and $v = \sqrt{\bar\alpha_t}\,\epsilon - \sqrt{1 - \bar\alpha_t}\,x_0$ gives both.

diffusers' `from_config` replaces values that were defaults of the other class by defaults of the
new one. If the two differ, a network would run with another noise schedule than in training.
The schedulers here keep the values.
"""

import inspect
from collections.abc import Mapping
from math import sqrt
from typing import Any

import diffusers
from diffusers.configuration_utils import FrozenDict
from torch import Tensor

import spikediff
from spikediff.errors import UserError, check_known

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")


def image_and_noise(
    output: Tensor, x_t: Tensor, alpha_bar: float, prediction_type: str
) -> tuple[Tensor, Tensor]:
    r"""Return the estimates of $x_0$ and $\epsilon$ implied by a denoiser's output.

    `output` and `x_t` have any shape, the same for both; `alpha_bar` lies in (0, 1).

    Reference: Salimans and Ho, "Progressive distillation for fast sampling of diffusion models",
    ICLR 2022, appendix D.
    """
    check_known("prediction_type", prediction_type, PREDICTION_TYPES)
    a, sigma = sqrt(alpha_bar), sqrt(1.0 - alpha_bar)
    if prediction_type == "epsilon":
        return (x_t - sigma * output) / a, output
    if prediction_type == "sample":
        return output, (x_t - a * output) / sigma
    return a * x_t - sigma * output, a * output + sigma * x_t


_DEFAULTS = "_use_default_values"  # diffusers' list of the values that were defaults
_BETAS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
# What else belongs to a noise schedule, and its value in classes of diffusers that do not have it.
_NEUTRAL: dict[str, Any] = {
    "trained_betas": None,
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
    "snr_shift_scale": 1.0,
    "use_flow_sigmas": False,
}
_SCHEDULE = (*_BETAS, *_NEUTRAL)


def kept_schedule(
    cls: type[Any], config: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return another scheduler's configuration for a class that keeps its noise schedule.

    The configuration is the `.config` of a scheduler, the content of its JSON file, or some
    settings; `settings` replace its values. It needs betas, and must fit `cls`.
    """
    kept = {**config, **settings}
    kept[_DEFAULTS] = [key for key in config.get(_DEFAULTS, ()) if key not in _SCHEDULE]
    if isinstance(config, FrozenDict) or "_class_name" in config:  # a scheduler's, not a user's
        kept = {**_defaults_of(config.get("_class_name")), **kept}
        kept.setdefault("prediction_type", _NEUTRAL["prediction_type"])
        if missing := [key for key in _BETAS if key not in kept]:
            raise UserError(
                f"{cls.__name__}: the given configuration has no {' and no '.join(missing)}; take "
                f"the scheduler that the network was trained with"
            )
    known = inspect.signature(cls.__init__).parameters
    for key, neutral in _NEUTRAL.items():
        if key not in known and kept.get(key, neutral) not in (neutral, None):
            raise UserError(
                f"{cls.__name__}: does not know {key} = {kept[key]!r}, which belongs to the noise "
                f"schedule; take a scheduler that does, such as ddim"
            )
    kind = kept.get("prediction_type", PREDICTION_TYPES[0])
    check_known("prediction_type", kind, PREDICTION_TYPES)
    return kept


def _defaults_of(class_name: Any) -> dict[str, Any]:
    """Return the defaults of a scheduler's noise schedule; none for an unknown class."""
    home = spikediff if class_name in spikediff.__all__ else diffusers
    known = getattr(home, str(class_name), None)
    if not isinstance(known, type):
        return {}
    parameters = inspect.signature(known.__init__).parameters  # type: ignore[misc]
    return {key: parameters[key].default for key in _SCHEDULE if key in parameters}


class KeepsSchedule:
    """A scheduler that keeps the noise schedule of a configuration; first in the bases."""

    def register_to_config(self, **settings: Any) -> None:
        """Set settings, without recording those of the noise schedule as defaults."""
        if _DEFAULTS in settings:
            replaceable = [key for key in settings[_DEFAULTS] if key not in _SCHEDULE]
            settings[_DEFAULTS] = replaceable
        super().register_to_config(**settings)  # type: ignore[misc]

    @classmethod
    def from_config(
        cls, config: Any = None, return_unused_kwargs: bool = False, **settings: Any
    ) -> Any:
        """Make a scheduler with the noise schedule of a configuration, as diffusers does."""
        if isinstance(config, Mapping):
            of_schedule = {key: settings.pop(key) for key in _SCHEDULE if key in settings}
            config = kept_schedule(cls, config, of_schedule)
        try:
            return super().from_config(config, return_unused_kwargs, **settings)  # type: ignore[misc]
        except NotImplementedError as error:
            raise UserError(f"{cls.__name__}: {error}") from error
