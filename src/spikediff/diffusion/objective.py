"""The interface of a loss in the training loop, and the denoising loss."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from spikediff.errors import check_number


@dataclass(frozen=True)
class Losses:
    """The losses of one part of a batch.

    Attributes:
        terms: Weighted terms by name, 0-dim; training minimises their sum and logs each.
        watched: Further numbers for the curve, 0-dim.
    """

    terms: Mapping[str, Tensor]
    watched: Mapping[str, Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """How a network is trained, independently of optimizer and processes."""

    def prepare(self, items: Tensor) -> Tensor:
        """Convert stored items of the data set to what the loss takes [B, ...]."""

    def draw(
        self, shape: tuple[int, ...], progress: float, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Draw all random numbers for a whole batch, independently of the number of processes.

        The shape [B, ...] is that of the batch over all processes and parts. The first axis of the
        result is B too; its tensors are split like the items. `progress` goes from 0 to 1.
        """

    def __call__(self, model: nn.Module, x_0: Tensor, *drawn: Tensor) -> Losses:
        """Return the losses of a part of the batch, given its random numbers.

        Mixed precision casts the model's output and cannot rebuild one of several fields: call such
        a model with `return_dict=False`.
        """


class RunParts(Protocol):
    """The run's data for the constructors of its network, loss and pipeline.

    Attributes:
        recipe: The recipe: `recipe.model.spiking_steps`, `recipe.sampling.temperature`, ...
        dataset: The items that the network is trained on; None for sampling only.
        image_size: Side of an item, in pixels.
        channels: Channels of an item.
    """

    recipe: Any
    dataset: Any
    image_size: int
    channels: int

    @property
    def num_train_timesteps(self) -> int:
        """Length of the diffusion clock."""

    @property
    def noise_schedule(self) -> Any:
        """The DDPM scheduler that noises the items."""

    @property
    def sampler(self) -> Any:
        """The scheduler that the recipe samples with, on the same noise schedule."""

    @property
    def first_stage(self) -> Any:
        """The trained first stage, frozen."""

    @property
    def codebook_size(self) -> int:
        """Number of codes of the first stage."""

    def to_model_range(self, items: Tensor) -> Tensor:
        """Convert stored items to the range of a denoiser's input, about [-1, 1]."""


class DenoisingObjective:
    """Noise an image; the loss is the squared error of the network's estimate.

    Args:
        run: The run.
        min_snr_gamma: Gamma of min-SNR weighting, about 5; 0 for none. See `timestep_weights`.
        p2_gamma: Gamma of P2 weighting, 0.5 to 1; 0 for none.
    """

    def __init__(self, run: RunParts, *, min_snr_gamma: float = 0.0, p2_gamma: float = 0.0) -> None:
        check_not_negative(min_snr_gamma=min_snr_gamma, p2_gamma=p2_gamma)
        self.schedule = run.noise_schedule
        self.prepare = run.to_model_range
        self.weights = timestep_weights(self.schedule, min_snr_gamma, p2_gamma)

    def draw(
        self, shape: tuple[int, ...], progress: float, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Draw timesteps [B] and noise [B, C, H, W]."""
        return draw_noise(shape, self.schedule.config.num_train_timesteps, generator)

    def __call__(self, model: nn.Module, x_0: Tensor, *drawn: Tensor) -> Losses:
        """Return the term for timesteps and noise."""
        timestep, eps = drawn
        return Losses(denoising_loss(model, self.schedule, x_0, timestep, eps, self.weights))


def check_not_negative(**values: float) -> None:
    """Raise a `UserError` for a negative weight of a recipe's `loss:` section."""
    for name, value in values.items():
        check_number(f"loss.{name}", value, 0, torch.finfo(torch.float32).max)


def target_of(scheduler: Any, x_0: Tensor, eps: Tensor, timestep: Tensor) -> Tensor:
    r"""Return what the network should estimate: $\epsilon$, $x_0$ or v; see `scheduler_config`."""
    prediction_type = scheduler.config.prediction_type
    if prediction_type == "epsilon":
        return eps
    if prediction_type == "sample":
        return x_0
    velocity: Tensor = scheduler.get_velocity(x_0, eps, timestep)
    return velocity


def timestep_weights(
    scheduler: Any, min_snr_gamma: float = 0.0, p2_gamma: float = 0.0
) -> Tensor | None:
    r"""Return the weight of the squared error at every timestep [num_train_timesteps].

    With the signal-to-noise ratio $S = \bar\alpha / (1 - \bar\alpha)$, and both factors if both are
    given:

        min-SNR:  min(S, gamma) times 1 / S of epsilon, 1 of x_0 ("sample"), 1 / (S + 1) of v
        P2:       (1 + S)^-gamma

    The first gives the error of $x_0$ the same weight for every prediction type. The second favours
    strong noise, where the shape of an image is decided; for v and gamma = 1, all timesteps count
    by their error of $x_0$. A gamma of 0 disables a factor; the result None means weights of 1.

    Reference: Hang et al., "Efficient diffusion training via min-SNR weighting strategy", ICCV
    2023; Choi et al., "Perception prioritized training of diffusion models", CVPR 2022 (k = 1).
    """
    if not (min_snr_gamma or p2_gamma):
        return None
    snr: Tensor = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)
    weights: Tensor = (1 + snr) ** -p2_gamma
    if min_snr_gamma:
        kind = scheduler.config.prediction_type
        of_x_0 = {"epsilon": snr, "sample": torch.ones(()), "v_prediction": snr + 1}[kind]
        weights = weights * snr.clamp(max=min_snr_gamma) / of_x_0
    return weights


def denoising_loss(
    model: nn.Module,
    scheduler: Any,
    x_0: Tensor,
    timestep: Tensor,
    eps: Tensor,
    weights: Tensor | None = None,
) -> dict[str, Tensor]:
    r"""Return the term $w_t \|f(x_t, t) - target\|^2$, averaged over all elements.

    Images x_0 [B, C, H, W] are in the model's range; the weights are those of `timestep_weights`.

    Reference: Ho et al., "Denoising diffusion probabilistic models", 2020, equation 14; v from
    Salimans and Ho, "Progressive distillation", 2022.
    """
    x_t = scheduler.add_noise(x_0, eps, timestep)
    estimate = model(x_t, timestep).sample
    target = target_of(scheduler, x_0, eps, timestep)
    return {"denoising": squared_error(estimate, target, timestep, weights)}


def squared_error(
    estimate: Tensor, target: Tensor, timestep: Tensor, weights: Tensor | None
) -> Tensor:
    """Return the weighted mean squared error of estimates [B, C, H, W], 0-dim."""
    if weights is None:
        return nn.functional.mse_loss(estimate.float(), target.float())
    of_image = (estimate.float() - target.float()).square().flatten(1).mean(1)  # [B]
    return (weights.to(of_image)[timestep] * of_image).mean()


def draw_noise(
    shape: tuple[int, ...], num_train_timesteps: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw a timestep [B] and noise [B, C, H, W] for every image of a whole batch."""
    timestep = torch.randint(num_train_timesteps, shape[:1], generator=generator)
    return timestep, torch.randn(shape, generator=generator)
