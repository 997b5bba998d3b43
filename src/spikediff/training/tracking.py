"""Send a run's settings, curve, sample grids and firing rates to accelerate's trackers."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from PIL import Image

from spikediff.energy import EnergyMeter
from spikediff.training.curve import CurvePoint
from spikediff.training.previews import PREVIEWS
from spikediff.training.recipe import Recipe

# The trackers of accelerate that accept pictures [N, H, W, C], and the options they need.
_PICTURES: dict[str, dict[str, str]] = {"tensorboard": {"dataformats": "NHWC"}, "wandb": {}}
_CALLS = 4  # network calls for the image whose spikes are counted


class Tracking:
    """The trackers of a run, if any; they show the run under the name of its folder."""

    def __init__(self, accelerator: Accelerator, recipe: Recipe, root: Path) -> None:
        self._accelerator, self._recipe = accelerator, recipe
        self._wanted = bool(recipe.training.trackers)
        if self._wanted:
            accelerator.init_trackers(root.resolve().name, config=settings_of(asdict(recipe)))

    def point(self, point: CurvePoint) -> None:
        """Send a row of the curve: loss, gradient, learning rate, speed, terms."""
        if self._wanted:
            values = point.row()
            self._accelerator.log(values, step=int(values.pop("step")))

    def grid(self, picture: Image.Image, step: int) -> None:
        """Send a grid of samples."""
        pixels = np.asarray(picture.convert("RGB"))[None]  # [1, H, W, 3]
        for name in set(_PICTURES) & set(self._recipe.training.trackers):
            tracker: Any = self._accelerator.get_tracker(name)
            tracker.log_images({"samples": pixels}, step=step, **_PICTURES[name])

    def spikes(self, pipe: Any, preview: str, dataset: Any, step: int) -> None:
        """Count the spikes of one image, in few network calls, and send the firing rates."""
        if not self._wanted:
            return
        sampling = self._recipe.sampling
        calls = min(_CALLS, sampling.num_inference_steps)
        small = replace(sampling, num_images=1, num_inference_steps=calls)
        with EnergyMeter(pipe, images=1) as meter:
            PREVIEWS[preview](pipe, replace(self._recipe, sampling=small), dataset)
        report = meter.report()
        if report.spikes_per_synapse is not None:
            rates = {"T x rate": report.spikes_per_synapse, "firing rate": report.firing_rate}
            self._accelerator.log(rates, step=step)


def settings_of(recipe: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted names, in types that trackers accept.

    Example:
        >>> settings_of({"seed": 0, "optimizer": {"lr": 1e-3, "betas": (0.9, 0.99)}})
        {'seed': 0, 'optimizer.lr': 0.001, 'optimizer.betas': '(0.9, 0.99)'}
    """
    flat: dict[str, Any] = {}
    for name, value in recipe.items():
        if isinstance(value, Mapping):
            flat |= settings_of(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, bool | int | float) else str(value)
    return flat
