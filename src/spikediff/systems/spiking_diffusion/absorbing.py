r"""Absorbing-state diffusion: tokens turn into masks one by one, and back; and its loss.

Forward, a token becomes MASK at step t with probability $\gamma_t = 1 / (T_d - t + 1)$ and stays
so; hence it is masked at time t with probability $t / T_d$. Backward, a jump from t down to any s
unmasks a masked position with probability $(t - s) / t$, exactly; its token is drawn from the
network's $p_\theta(h_0 | h_t)$.

Reference: Austin et al., "Structured denoising diffusion models in discrete state-spaces", NeurIPS
2021; Liu et al., "Spiking-Diffusion", arXiv 2308.10187, equations 10 to 14; unmasking by
confidence: Chang et al., "MaskGIT", CVPR 2022.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from torch import Tensor
from torch.nn.functional import cross_entropy

from spikediff.diffusion.exact_timesteps import check_steps
from spikediff.diffusion.seeds import Generators, draw_each
from spikediff.errors import UserError, check_number
from spikediff.layers.sizes import choose

# w(t, T_d). The bound (paper's equation 14) makes the loss of a nearly clean grid loud; Bond-Taylor
# et al. reweight by the unmasked share. As released, that weight is 0 at t = T_d: the grid of
# nothing but masks, where every sample starts, is never trained. "reweighted" moves it by a step.
LOSS_WEIGHTS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "elbo": lambda t, t_d: t_d / t,
    "reweighted": lambda t, t_d: 1.0 - (t - 1.0) / t_d,
    "released": lambda t, t_d: 1.0 - t / t_d,
}


def absorbing_loss(
    logits: Tensor,
    tokens: Tensor,
    masked: Tensor,
    timesteps: Tensor,
    num_train_timesteps: int,
    weighting: str = "reweighted",
) -> Tensor:
    r"""Return the cross entropy of the masked tokens, weighted by time, a scalar.

    With $CE = -\sum_{masked} \log p_\theta(h_0 | h_t)$ of a grid, T_d timesteps and a weight w(t),
    it is $mean_b\; w(t_b)\,CE_b / (T_d \ln 2)$, in bits per token where there are T_d tokens.

    Args:
        logits: Logits of every code at every position [B, K, h, w].
        tokens: The grid without masks, $h_0$ [B, h, w].
        masked: Which positions were masked [B, h, w], boolean; only they count.
        timesteps: t of every grid, from 1 to T_d [B].
        num_train_timesteps: T_d.
        weighting: Key of `LOSS_WEIGHTS`.

    Reference: Bond-Taylor et al., "Unleashing transformers", ECCV 2022 (the reweighted bound); Liu
    et al., equation 14.
    """
    weigh = choose("absorbing loss", LOSS_WEIGHTS, "weighting", weighting)
    if tokens.shape != masked.shape or logits.shape[:1] + logits.shape[2:] != tokens.shape:
        raise UserError(
            f"absorbing loss: logits {tuple(logits.shape)}, tokens {tuple(tokens.shape)} and masks "
            f"{tuple(masked.shape)} do not fit; give [B, K, h, w], [B, h, w] and [B, h, w]"
        )
    per_token = cross_entropy(logits, tokens, reduction="none")  # [B, h, w]
    per_grid = (per_token * masked).sum((1, 2))  # [B]
    weight: Tensor = weigh(timesteps.to(per_grid.dtype), num_train_timesteps)
    return (weight * per_grid).mean() / (num_train_timesteps * math.log(2.0))


UNMASKING = {
    "ancestral": "every masked position with the same probability (exact)",
    "confidence": "as many as ancestral on average, the surest first (MaskGIT)",
}


@dataclass
class AbsorbingStateSchedulerOutput(BaseOutput):
    """The grid at the next, cleaner time, and a grid with all masks replaced [B, h, w]."""

    prev_sample: Tensor
    pred_original_sample: Tensor


def keep_nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Return logits [B, K, ...] with -inf for codes outside the nucleus.

    The nucleus is the smallest set of likeliest codes with a total probability of at least `top_p`.

    Reference: Holtzman et al., "The curious case of neural text degeneration", ICLR 2020.
    """
    if top_p >= 1.0:
        return logits
    ordered, order = logits.sort(dim=1, descending=True)
    probabilities = ordered.softmax(1)
    outside = probabilities.cumsum(1) - probabilities >= top_p  # what comes before it suffices
    return logits.masked_fill(torch.zeros_like(outside).scatter(1, order, outside), -torch.inf)


def draw_tokens(
    logits: Tensor, exponentials: Tensor, temperature: float = 1.0, top_p: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Draw a token at every position; return tokens [B, h, w] and their log-probabilities.

    The code with the largest `p / E` for draws E ~ Exp(1) [B, K, h, w] is a draw from p. The
    temperature divides the logits; 0 takes the likeliest code. `top_p` is the probability of the
    nucleus from which codes are drawn.
    """
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    if temperature > 0.0:
        logits = keep_nucleus(logits / temperature, top_p)
    scores = logits.log_softmax(1)
    perturbed = scores - exponentials.log() if temperature > 0.0 else scores
    tokens = perturbed.argmax(1)
    return tokens, scores.gather(1, tokens[:, None])[:, 0]


class AbsorbingStateScheduler(SchedulerMixin, ConfigMixin):
    """Masks tokens for training, and unmasks them to generate, in any number of steps.

    Args:
        num_train_timesteps: T_d, at which all is masked; Spiking-Diffusion has one per token.
        mask_token: MASK; the size K of the codebook, because its tokens go from 0 to K - 1.
        confidence_noise: Of "confidence": scale of the Gumbel noise on the confidences, which
            shrinks with the time; 4.5 in MaskGIT.
        temperature: Divides the logits, unless `step` is given one; 0 takes the likeliest codes.
        top_p: Probability of the nucleus that is drawn from; 1 is all of it.
        unmasking: "ancestral" or "confidence".

    Example:
        >>> scheduler = AbsorbingStateScheduler(num_train_timesteps=49, mask_token=128)
        >>> scheduler.set_timesteps(4)
        >>> scheduler.timesteps.tolist()
        [49, 37, 25, 12]
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 49,
        mask_token: int = 128,
        confidence_noise: float = 4.5,
        temperature: float = 1.0,
        top_p: float = 1.0,
        unmasking: str = "ancestral",
    ) -> None:
        name = "AbsorbingStateScheduler: "
        check_number(f"{name}num_train_timesteps", num_train_timesteps, 1, whole=True)
        check_number(f"{name}mask_token", mask_token, 1, whole=True)
        check_number(f"{name}confidence_noise", confidence_noise, 0)
        _check_draw(temperature, top_p, unmasking)
        self.num_inference_steps: int | None = None
        self.timesteps: Tensor = torch.arange(num_train_timesteps, 0, -1)
        self._visited: list[int] = self.timesteps.tolist()

    def set_timesteps(
        self, num_inference_steps: int, device: str | torch.device | None = None
    ) -> None:
        """Choose the timesteps to visit: T_d first, evenly spaced down to the jump onto 0."""
        longest = self.config.num_train_timesteps
        check_steps(num_inference_steps, longest)
        remaining = range(num_inference_steps, 0, -1)
        self._visited = [(2 * longest * k // num_inference_steps + 1) // 2 for k in remaining]
        self.timesteps = torch.tensor(self._visited, device=device)
        self.num_inference_steps = num_inference_steps

    def scale_model_input(self, sample: Tensor, timestep: int | Tensor | None = None) -> Tensor:
        """Return the sample unchanged: the network takes the tokens themselves."""
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Mask tokens h_0 [B, h, w] as the forward process does by time t [B], from 1 to T_d.

        The noise is uniform between 0 and 1 [B, h, w]; what is below t / T_d is masked.
        """
        share = timesteps / self.config.num_train_timesteps
        masked = noise < share.to(noise.dtype).view(-1, *[1] * (noise.dim() - 1))
        return original_samples.masked_fill(masked, self.config.mask_token)

    def draw(
        self,
        shape: tuple[int, ...],
        generator: Generators = None,
        device: torch.device | str | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw the random numbers of one step: uniforms, and exponentials for all codes.

        The shape is that of the logits, (B, K, h, w). Numbers are drawn where the generator is.
        """

        def draw(images: int, source: torch.Generator | None) -> Tensor:
            place, grid = device if source is None else source.device, shape[2:]
            uniforms = torch.rand(images, *grid, generator=source, device=place)
            exponentials = torch.empty(images, shape[1], *grid, device=place)
            exponentials.exponential_(generator=source)
            return torch.cat([uniforms[:, None], exponentials], 1)  # [B, 1 + K, h, w]

        drawn = draw_each(draw, shape[0], generator).to(device)
        return drawn[:, 0], drawn[:, 1:]

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Generators = None,
        temperature: float | None = None,
        top_p: float | None = None,
        unmasking: str | None = None,
        draws: tuple[Tensor, Tensor] | None = None,
        return_dict: bool = True,
    ) -> AbsorbingStateSchedulerOutput | tuple[Tensor, Tensor]:
        """Unmask some positions; the others do not change.

        Args:
            model_output: The network's logits [B, K, h, w].
            timestep: The time t that the step leaves; it lands on the next of `timesteps`, or on 0.
            sample: The grid h_t [B, h, w].
            generator: One for all, or a list with one per image.
            temperature: This and the next two replace those of the configuration.
            top_p: See the scheduler.
            unmasking: Key of `UNMASKING`.
            draws: The random numbers, instead of drawing them; see `draw`.
            return_dict: False returns a tuple.
        """
        temperature = self.config.temperature if temperature is None else temperature
        top_p = self.config.top_p if top_p is None else top_p
        unmasking = self.config.unmasking if unmasking is None else unmasking
        _check_draw(temperature, top_p, unmasking)
        self._check(model_output, sample)
        t = int(timestep)
        landing = max((s for s in self._visited if s < t), default=0)
        if draws is None:
            draws = self.draw(tuple(model_output.shape), generator, sample.device)
        uniforms, exponentials = draws
        tokens, scores = draw_tokens(model_output, exponentials, temperature, top_p)
        masked = sample == self.config.mask_token
        if unmasking == "ancestral":
            revealed = masked & (uniforms < (t - landing) / t)
        else:
            scale = self.config.confidence_noise * landing / self.config.num_train_timesteps
            confidence = scores - scale * (-uniforms.log()).log()  # Gumbel noise
            # The sum modulo 1 of two or more uniforms is uniform and independent of each of them.
            revealed = _surest(confidence, masked, t, landing, uniforms.sum((1, 2)) % 1.0)
        before = torch.where(revealed, tokens, sample)
        clean = torch.where(masked, tokens, sample)
        if not return_dict:
            return before, clean
        return AbsorbingStateSchedulerOutput(prev_sample=before, pred_original_sample=clean)

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)

    def _check(self, logits: Tensor, sample: Tensor) -> None:
        if logits.shape != (sample.shape[0], self.config.mask_token, *sample.shape[1:]):
            raise UserError(
                f"AbsorbingStateScheduler: logits {tuple(logits.shape)} do not fit a grid "
                f"{tuple(sample.shape)} of {self.config.mask_token} codes"
            )


def _check_draw(temperature: Any, top_p: Any, unmasking: str) -> None:
    choose("AbsorbingStateScheduler", UNMASKING, "unmasking", unmasking)
    check_number("temperature", temperature, 0)
    check_number("top_p", top_p, above=0, most=1)


def _surest(
    confidence: Tensor, masked: Tensor, timestep: int, landing: int, uniform: Tensor
) -> Tensor:
    """Return which masked positions of every grid [B, h, w] to unmask.

    s / t of them stay masked, rounded up with the probability of the fraction by a number [B].
    """
    order = confidence.masked_fill(~masked, -torch.inf).flatten(1).argsort(1, descending=True)
    rank = order.argsort(1).view_as(masked)  # [B, h, w], 0 for the surest
    masks = masked.sum((1, 2))
    left = (masks * landing + (uniform * timestep).long()) // timestep
    return masked & (rank < (masks - left)[:, None, None])
