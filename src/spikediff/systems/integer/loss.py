"""The loss of an integer network: denoising, with penalties on spikes and changes of counts."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from spikediff.diffusion.objective import (
    DenoisingObjective,
    Losses,
    RunParts,
    check_not_negative,
    squared_error,
    target_of,
)
from spikediff.errors import UserError

_NEAR = 50  # timesteps between an image and its neighbour: a step of 20


class IntegerObjective(DenoisingObjective):
    r"""$\|f(x_t, t) - target\|^2 + \lambda\,\mathrm{rate} + \mu\,\mathrm{change}$.

    Args:
        run: The run.
        min_snr_gamma: As in `DenoisingObjective`.
        p2_gamma: As in `DenoisingObjective`.
        rate_penalty: Lambda, the weight of T x rate: spikes per synapse and call.
        change_penalty: Mu, the weight of the changes per synapse between two neighbouring
            timesteps. If it is not 0, the second half of a batch repeats the first at slightly
            later timesteps.

    Raises:
        UserError: A weight is negative; the network is the ordinary counterpart, and one of the
            last two weights is not 0; or changes are penalised, and the network has classes or the
            batch cannot be halved.
    """

    def __init__(
        self,
        run: RunParts,
        *,
        min_snr_gamma: float = 0.0,
        p2_gamma: float = 0.0,
        rate_penalty: float = 0.0,
        change_penalty: float = 0.0,
    ) -> None:
        check_not_negative(rate_penalty=rate_penalty, change_penalty=change_penalty)
        if (rate_penalty or change_penalty) and run.recipe.model.activation != "integer":
            raise UserError(
                f"model.activation: {run.recipe.model.activation} emits no spikes to penalise; set "
                f"loss.rate_penalty and loss.change_penalty to 0"
            )
        if change_penalty and (run.recipe.model.num_classes or run.recipe.data.batch_size % 2):
            raise UserError(
                "loss.change_penalty: pairs the images of a batch; omit model.num_classes, "
                "and choose an even data.batch_size"
            )
        super().__init__(run, min_snr_gamma=min_snr_gamma, p2_gamma=p2_gamma)
        self.rate_penalty = rate_penalty
        self.change_penalty = change_penalty

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
        """Return a batch whose second half is the first half `_NEAR` timesteps later."""
        half, rest = divmod(len(x_0), 2)
        if rest:
            raise UserError(
                f"loss.change_penalty: pairs the images of every part of a batch, here {len(x_0)}; "
                f"make them even with data.batch_size or optimizer.gradient_accumulation_steps"
            )
        last = self.schedule.config.num_train_timesteps - 1
        later = (timestep[:half] + _NEAR).clamp(max=last)
        twice = (torch.cat([x[:half], x[:half]]) for x in (x_0, eps))
        x_0, eps = twice
        return x_0, torch.cat([timestep[:half], later]), eps
