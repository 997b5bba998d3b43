"""The loss of an integer network: denoising, and a price for spikes and for changes of counts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spikediff.data import to_model_range
from spikediff.diffusion.objective import (
    Losses,
    draw_noise,
    squared_error,
    target_of,
)

_NEAR = 50  # timesteps between an image and its neighbour: a step of 20


@dataclass(frozen=True)
class IntegerObjective:
    r"""$\|f(x_t, t) - target\|^2 + \lambda\,\mathrm{rate} + \mu\,\mathrm{change}$.

    Attributes:
        schedule: The scheduler that noises the images.
        weights: Those of `timestep_weights`; None is 1 for all.
        rate_penalty: The weight of T x rate, spikes per synapse and call.
        change_penalty: The weight of the changes per synapse between two neighbouring timesteps.
            Where it is not 0, the second half of a batch is the first at slightly later timesteps.
    """

    schedule: Any
    weights: Tensor | None
    rate_penalty: float
    change_penalty: float

    def prepare(self, items: Tensor) -> Tensor:
        """Return images in [-1, 1]."""
        return to_model_range(items)

    def draw(
        self, shape: tuple[int, ...], progress: float, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Draw timesteps [B] and noise [B, C, H, W]."""
        return draw_noise(shape, self.schedule.config.num_train_timesteps, generator)

    def __call__(self, model: nn.Module, x_0: Tensor, *drawn: Tensor) -> Losses:
        """Return the terms for timesteps and noise."""
        timestep, eps = drawn
        paired = self.change_penalty > 0
        if paired:
            x_0, timestep, eps = self._pairs(x_0, timestep, eps)
        x_t = self.schedule.add_noise(x_0, eps, timestep)
        output = model(x_t, timestep, paired=paired)
        target = target_of(self.schedule, x_0, eps, timestep)
        error = squared_error(output.sample, target, timestep, self.weights)
        terms: dict[str, Tensor] = {"denoising": error}
        watched: Mapping[str, Tensor] = {"t_x_rate": output.rate}
        if self.rate_penalty:
            terms["rate"] = self.rate_penalty * output.rate
        if paired:
            terms["change"] = self.change_penalty * output.change
        return Losses(terms, watched)

    def _pairs(self, x_0: Tensor, timestep: Tensor, eps: Tensor) -> tuple[Tensor, ...]:
        """Return a batch whose second half is the first, `_NEAR` timesteps on."""
        half = len(x_0) // 2
        last = self.schedule.config.num_train_timesteps - 1
        later = (timestep[:half] + _NEAR).clamp(max=last)
        twice = (torch.cat([x[:half], x[:half]]) for x in (x_0, eps))
        x_0, eps = twice
        return x_0, torch.cat([timestep[:half], later]), eps
