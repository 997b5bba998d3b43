"""Send a run's settings, curve, sample grids and firing rates to accelerate's trackers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from PIL import Image

from spikediff.energy import EnergyMeter
from spikediff.training.curve import CurvePoint
from spikediff.training.previews import PREVIEWS
from spikediff.training.recipe import Recipe
from spikediff.training.resuming import settings_of

# The trackers of accelerate that accept pictures [N, H, W, C], and the options they need.
_PICTURES: dict[str, dict[str, str]] = {"tensorboard": {"dataformats": "NHWC"}, "wandb": {}}
_CALLS = 4  # network calls for the image whose spikes are counted


class Tracking:
    """The trackers of a run, if any; they show the run under the name of its folder."""

    def __init__(self, accelerator: Accelerator, recipe: Recipe, root: Path) -> None:
        self._accelerator, self._recipe = accelerator, recipe
        self._wanted = bool(recipe.training.trackers)
        if self._wanted:
            settings = {  # in types that trackers accept
                key: value if isinstance(value, bool | int | float) else str(value)
                for key, value in settings_of(recipe)
            }
            accelerator.init_trackers(root.resolve().name, config=settings)

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
