"""Scheduled sampling: in training, the prior sometimes goes on from its own guess.

At generation the prior has nothing but its own spikes before it; in training it would see those of
the posterior only. So now and then it gets its own.

Reference: Bengio et al., "Scheduled sampling for sequence prediction with recurrent neural
networks", NeurIPS 2015; Kamata et al., "Fully spiking variational autoencoder", AAAI 2022.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from spikediff.errors import UserError
from spikediff.layers.bernoulli_latent import Look, Rule
from spikediff.layers.draws import Generators, draw_each

FIRST_STEP = 5  # before it the prior knows too little to guess from
_TIE_NOISE = 1e-3  # decides where half of the candidates are 1


class Coins(NamedTuple):
    """What scheduled sampling draws.

    Attributes:
        uniform: One coin a step and image, in [0, 1), [T, B]; on the CPU, where it is looked at.
        normal: What breaks ties, standard normal, [T, B, C].
    """

    uniform: Tensor
    normal: Tensor


def scheduled_sampling_probability(progress: float, first: float = 0.1, last: float = 0.3) -> float:
    r"""Return the probability of a guess: $first + (last - first)\,progress$.

    Args:
        progress: Share of the training that is done, in [0, 1]. The authors have epoch e of E at
            e / E, e from 0, so that `last` itself is never reached.
        first: Probability at the start.
        last: Probability at the end.

    Raises:
        UserError: A number lies outside [0, 1].

    Example:
        >>> scheduled_sampling_probability(0.5)
        0.2
    """
    for name, value in {"progress": progress, "first": first, "last": last}.items():
        if not 0.0 <= value <= 1.0:
            raise UserError(f"scheduled sampling: {name} = {value} must lie in [0, 1]")
    return first + (last - first) * progress


def draw_coins(
    shape: tuple[int, int, int], generator: Generators = None, shared: bool = False
) -> Coins:
    """Draw the coins of a batch.

    Args:
        shape: (T, B, C).
        generator: The source, or one per image.
        shared: Whether the first image's coin decides for the whole batch, as in the authors' code.
    """
    steps, batch_size, channels = shape

    def draw(images: int, source: torch.Generator | None) -> Tensor:
        device = "cpu" if source is None else source.device
        uniform = torch.rand(steps, images, 1, generator=source, device=device)
        normal = torch.randn(steps, images, channels, generator=source, device=device)
        return torch.cat([uniform, normal], dim=-1)

    drawn = draw_each(draw, batch_size, generator, axis=1)  # [T, B, 1 + C]
    uniform = drawn[..., 0].cpu()
    return Coins(uniform[:, :1].expand_as(uniform) if shared else uniform, drawn[..., 1:])


def scheduled_rule(z: Tensor, probability: float, coins: Coins) -> Rule:
    """Return the rule of a prior that follows z, or its own majority where the coin says so.

    Args:
        z: The posterior's spikes [T, B, C].
        probability: How often, from `FIRST_STEP` on, the prior follows itself.
        coins: The draws.
    """

    def rule(n: int, look: Look) -> Tensor:
        guesses = coins.uniform[n] < probability  # [B]
        if n < FIRST_STEP or not bool(guesses.any()):
            return z[n]
        noise = _TIE_NOISE * coins.normal[n].to(z)
        guess = (look().mean(-1) + noise > 0.5).to(z.dtype)  # [B, C]
        return torch.where(guesses[:, None].to(z.device), guess, z[n])

    return rule
