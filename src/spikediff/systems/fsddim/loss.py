"""Synaptic current learning: the loss of FSDDIM, as in the released code.

In training the network receives the same current at every spiking step. During sampling the
currents of the steps drift apart, because each is updated by its own output. The consistency term
keeps them together: it is the variance of the outputs over the spiking steps, weighted by how far
the output moves the next current.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from spikediff.diffusion.objective import (
    DenoisingObjective,
    Losses,
    RunParts,
    check_not_negative,
    target_of,
)
from spikediff.diffusion.schedules import fine_alphas_cumprod
from spikediff.layers.coding import direct, mean
from spikediff.systems.fsddim.scheduler import step_gains


def synaptic_current_loss(
    model: nn.Module,
    scheduler: Any,
    x_0: Tensor,
    timestep: Tensor,
    eps: Tensor,
    *,
    spiking_steps: int,
    consistency: Tensor,
    spike_level: float = 0.0,
) -> dict[str, Tensor]:
    r"""Return the terms of the loss for $o = f(x_t, \dots, x_t; t)$, T outputs.

    With $\bar o$ the mean of o over the spiking steps, y the target and $w_t$ of `noise_weight`:

        image_level = mean w_t (obar - y)^2
        consistency = mean c_t (o - obar)^2
        spike_level = weight * mean w_t (o - y)^2

    `consistency` has $c_t$ for every timestep (`weigh_consistency`). The last term is omitted
    if its weight is 0, as published.
    """
    x_t = scheduler.add_noise(x_0, eps, timestep)
    output = model(direct(x_t, spiking_steps), timestep).sample.to(x_0.dtype)  # [T, B, C, H, W]
    target = target_of(scheduler, x_0, eps, timestep)
    decoded = mean(output)
    alpha_bar = scheduler.alphas_cumprod.to(x_0)[timestep]
    weight = _per_image(noise_weight(alpha_bar, scheduler.config.prediction_type))
    spread = _per_image(consistency.to(x_0)[timestep])
    terms = {
        "image_level": (weight * (decoded - target).square()).mean(),
        "consistency": (spread * (output - decoded).square()).mean(),
    }
    if spike_level:
        terms["spike_level"] = spike_level * (weight * (output - target).square()).mean()
    return terms


def noise_weight(alpha_bar: Tensor, prediction_type: str) -> Tensor:
    r"""Return the factor from an estimate's squared error to that of the implied noise.

    1 for "epsilon"; $\bar\alpha_t$ for "v_prediction"; $\bar\alpha_t / (1 - \bar\alpha_t)$, the
    signal-to-noise ratio, for "sample".

    Reference: Salimans and Ho, "Progressive distillation", ICLR 2022, section 4.
    """
    if prediction_type == "epsilon":
        return torch.ones_like(alpha_bar)
    return alpha_bar if prediction_type == "v_prediction" else alpha_bar / (1.0 - alpha_bar)


def weigh_consistency(scheduler: Any, weight: float = 1.0, over_time: str = "released") -> Tensor:
    r"""Return the weight $c_t$ of the consistency term at every timestep, float64.

    "released" is proportional to $|g_o|$ of the step from t to t - 1 (see `step_gains`), $\sin
    \delta_t$ for v, and has the largest value 1; "constant" is 1 everywhere. `weight` multiplies
    all.
    """
    alpha_bar = [1.0, *fine_alphas_cumprod(scheduler.config).tolist()]
    gains = [
        abs(step_gains(alpha_bar[t + 1], alpha_bar[t], scheduler.config.prediction_type)[1])
        for t in range(len(alpha_bar) - 1)
    ]
    c = torch.tensor(gains, dtype=torch.float64)
    c = c / c.max() if over_time == "released" else torch.ones_like(c)
    return weight * c


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]  # [B] -> [B, 1, 1, 1]


class SynapticCurrentObjective(DenoisingObjective):
    """Synaptic current learning.

    Args:
        run: The run.
        consistency: Weight of the variance of the currents over the spiking steps.
        consistency_weights: How this weight depends on t: "released", proportional to the effect of
            the output on the next current, or "constant".
        spike_level: Weight of the error of every single spiking step.
    """

    def __init__(
        self,
        run: RunParts,
        *,
        consistency: float = 1.0,
        consistency_weights: Literal["released", "constant"] = "released",
        spike_level: float = 0.0,
    ) -> None:
        check_not_negative(consistency=consistency, spike_level=spike_level)
        super().__init__(run)
        self.spiking_steps = run.recipe.model.spiking_steps
        self.consistency = weigh_consistency(self.schedule, consistency, consistency_weights)
        self.spike_level = spike_level

    def __call__(self, model: nn.Module, x_0: Tensor, *drawn: Tensor) -> Losses:
        """Return the terms for timesteps and noise."""
        return Losses(
            synaptic_current_loss(
                model,
                self.schedule,
                x_0,
                *drawn,
                spiking_steps=self.spiking_steps,
                consistency=self.consistency,
                spike_level=self.spike_level,
            )
        )
