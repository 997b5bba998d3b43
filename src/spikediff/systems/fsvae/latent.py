"""FSVAE's latent space: autoregressive Bernoulli spikes sampled by a spiking network.

At every spiking step the network emits k binary candidates per latent unit. One of them, chosen
uniformly at random, is the unit's spike, so the probability of a spike is their mean. The spike
enters the network at the next step.

Scheduled sampling: in generation the prior receives its own spikes, in training those of the
posterior; so in training it sometimes continues from its own guess (Bengio et al., "Scheduled
sampling for sequence prediction with recurrent neural networks", NeurIPS 2015).
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spikediff.diffusion.seeds import Generators, draw_each
from spikediff.layers.conv import threshold_layer
from spikediff.layers.norm import running_statistics
from spikediff.neurons import Memory, NeuronLayer

_ALPHA = 2.0  # gain of the norms, twice that of the other layers
Look = Callable[[], Tensor]
Rule = Callable[[int, Look], Tensor]


class BernoulliLatent(nn.Module):
    r"""Three layers from the last spikes, and a context, to k candidates per latent unit.

    $p(z[n] \mid z[<n])$ without a context; $q(z[n] \mid x[\le n], z[<n])$ with one. The membranes
    carry the influence of earlier steps.

    Shape: z[n-1] [T, B, C], context [T, B, E] -> candidates [T, B, C, k].
    """

    def __init__(
        self,
        channels: int,
        context_channels: int,
        group_size: int,
        neuron: Callable[[], NeuronLayer],
    ) -> None:
        super().__init__()
        self.group_size = group_size
        widths = [context_channels + channels, 2 * channels, 4 * channels, group_size * channels]
        self.layers = nn.ModuleList(
            threshold_layer(nn.Linear(c_in, c_out), c_out, neuron, _ALPHA)
            for c_in, c_out in pairwise(widths)
        )

    def forward(
        self, z_before: Tensor, context: Tensor | None = None, memory: Memory | None = None
    ) -> Tensor:
        """Return the candidates [T, B, C, k] for z[n-1] [T, B, C] and a context [T, B, E]."""
        h = z_before if context is None else torch.cat([context, z_before], dim=-1)
        for layer in self.layers:
            h = layer(h, memory)
        return h.view(*h.shape[:-1], -1, self.group_size)  # [T, B, C * k] -> [T, B, C, k]


def draw_choices(
    shape: tuple[int, int, int], group_size: int, generator: Generators = None
) -> Tensor:
    """Draw the candidate of every latent unit and step: 0 to `group_size - 1`, (T, B, C)."""
    steps, batch_size, channels = shape

    def draw(images: int, source: torch.Generator | None) -> Tensor:
        device = "cpu" if source is None else source.device
        size = (steps, images, channels)
        return torch.randint(group_size, size, generator=source, device=device)

    return draw_each(draw, batch_size, generator, axis=1)


def pick(candidates: Tensor, choice: Tensor) -> Tensor:
    """Return the chosen candidate of every unit: [..., C, k] by [..., C] -> [..., C]."""
    return candidates.gather(-1, choice[..., None])[..., 0]


def delayed(z: Tensor) -> Tensor:
    """Return z[n-1] at every step n, [T, ...]; before the first there is no spike."""
    return torch.cat([torch.zeros_like(z[:1]), z[:-1]])


def roll_out(
    network: BernoulliLatent,
    rule: Rule,
    start: Tensor,
    spiking_steps: int,
    context: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw a network's spikes in one pass that carries the membranes forward: O(T).

    The norms use their running statistics in training too, as in generation: a single step lacks
    the statistics of the window.

    Args:
        network: The network.
        rule: Called as `rule(n, look)`; returns z[n] [B, C]. `look()` returns the candidates
            [B, C, k] of this step.
        start: Zeros [B, C], the spikes before the first step.
        spiking_steps: T.
        context: The context of the network [T, B, E].

    Returns:
        z [T, B, C], and the candidates [T, B, C, k] of every step. No gradient passes from a step
        to the spikes drawn before it.
    """
    memory: Memory = {}
    z, spikes, candidates = start, [], []
    with running_statistics(network):
        for n in range(spiking_steps):
            candidates.append(network(z.detach()[None], _part(context, n, n + 1), memory)[0])
            z = rule(n, lambda: candidates[-1])
            spikes.append(z)
    return torch.stack(spikes), torch.stack(candidates)


def roll_out_prefixes(
    network: BernoulliLatent,
    rule: Rule,
    start: Tensor,
    spiking_steps: int,
    context: Tensor | None = None,
) -> Tensor:
    """Return the z of `roll_out` as in the authors' code: every step repeats those before it.

    O(T^2), without a gradient. In eval mode the result is the same. In training mode every prefix
    is normalised by its own statistics, which update the running ones if gradients are on.
    Steps in which the rule does not look are skipped.
    """
    before = [start]
    for n in range(spiking_steps):

        def look(last: int = n) -> Tensor:
            found: Tensor = network(torch.stack(before), _part(context, 0, last + 1))[-1]
            return found.detach()

        before.append(rule(n, look))
    return torch.stack(before[1:])


def _part(context: Tensor | None, first: int, end: int) -> Tensor | None:
    return None if context is None else context[first:end]


FIRST_STEP = 5  # before it the prior has too little information for a guess
_TIE_NOISE = 1e-3  # decides where half of the candidates are 1


class Coins(NamedTuple):
    """The random numbers of scheduled sampling.

    Attributes:
        uniform: One number per step and image, in [0, 1), [T, B], on the CPU.
        normal: Standard normal, to break ties, [T, B, C].
    """

    uniform: Tensor
    normal: Tensor


def draw_coins(
    shape: tuple[int, int, int], generator: Generators = None, shared: bool = False
) -> Coins:
    """Draw the random numbers for a batch (T, B, C).

    With `shared`, the first image's number decides for the whole batch, as in the authors' code.
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
    """Return the rule of a prior that follows z [T, B, C], or at times its own majority vote."""

    def rule(n: int, look: Look) -> Tensor:
        guesses = coins.uniform[n] < probability  # [B]
        if n < FIRST_STEP or not bool(guesses.any()):
            return z[n]
        noise = _TIE_NOISE * coins.normal[n].to(z)
        guess = (look().mean(-1) + noise > 0.5).to(z.dtype)  # [B, C]
        return torch.where(guesses[:, None].to(z.device), guess, z[n])

    return rule
