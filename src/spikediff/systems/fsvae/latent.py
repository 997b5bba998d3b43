r"""Random draws of a batch: from one generator, or from one per image.

Autoregressive Bernoulli spike sampling: latent bits that a spiking network draws.

The network answers every spiking step with k binary candidates a latent unit. One of them, picked
uniformly at random, is the unit's spike: it is 1 with the probability that is their mean, so a
draw needs no arithmetic but a choice. The spike goes back into the network at the next step.

Reference: Kamata et al., "Fully spiking variational autoencoder", AAAI 2022.

Scheduled sampling: in training, the prior sometimes goes on from its own guess.

At generation the prior has nothing but its own spikes before it; in training it would see those of
the posterior only. So now and then it gets its own.

Reference: Bengio et al., "Scheduled sampling for sequence prediction with recurrent neural
networks", NeurIPS 2015; Kamata et al., "Fully spiking variational autoencoder", AAAI 2022.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spikediff.errors import UserError
from spikediff.layers.norm import running_statistics
from spikediff.layers.spiking_layer import threshold_layer
from spikediff.neurons import Memory, NeuronLayer

Generators = torch.Generator | list[torch.Generator] | None
Draw = Callable[[int, torch.Generator | None], Tensor]


def draw_each(draw: Draw, batch_size: int, generator: Generators, axis: int = 0) -> Tensor:
    """Draw for a batch of images.

    Args:
        draw: Called as `draw(images, generator)`; returns what that many images need.
        batch_size: B.
        generator: One source for all; or one per image, and then what image k gets depends on the
            k-th generator alone, because every image is drawn by itself.
        axis: Axis of the images in what `draw` returns.

    Returns:
        The draws, B along `axis`.

    Raises:
        UserError: There are not as many generators as images.

    Example:
        >>> seeds = [torch.Generator().manual_seed(s) for s in (5, 6, 5)]
        >>> a, _, c = draw_each(lambda n, g: torch.rand(n, generator=g), 3, seeds)
        >>> bool(a == c)
        True
    """
    if not isinstance(generator, list):
        return draw(batch_size, generator)
    if len(generator) != batch_size:
        raise UserError(f"{len(generator)} generators for a batch of {batch_size}; one per image")
    return torch.cat([draw(1, own) for own in generator], axis)


_ALPHA = 2.0  # gain of the norms, twice that of the other layers
Look = Callable[[], Tensor]
Rule = Callable[[int, Look], Tensor]


class BernoulliLatent(nn.Module):
    r"""Three layers from the last spikes, and what else is known, to this step's candidates.

    $p(z[n] \mid z[<n])$ without a context; $q(z[n] \mid x[\le n], z[<n])$ with one. What lies
    further back than one step is in the membranes.

    Args:
        channels: C, latent units.
        context_channels: E, channels of the context; 0 for none.
        group_size: k, candidates of a unit.
        neuron: Makes one neuron layer.

    Shape: z[n-1] [T, B, C], context [T, B, E] -> candidates [T, B, C, k].

    Example:
        >>> from spikediff import IF
        >>> prior = BernoulliLatent(channels=2, context_channels=0, group_size=3, neuron=IF)
        >>> prior(torch.zeros(4, 5, 2)).shape
        torch.Size([4, 5, 2, 3])
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
        """Return the candidates [T, B, C, k].

        Args:
            z_before: z[n-1] [T, B, C] of every step n.
            context: What else is known [T, B, E].
            memory: States by layer, where the window goes on from an earlier one.
        """
        h = z_before if context is None else torch.cat([context, z_before], dim=-1)
        for layer in self.layers:
            h = layer(h, memory)
        return h.view(*h.shape[:-1], -1, self.group_size)  # [T, B, C * k] -> [T, B, C, k]


def draw_choices(
    shape: tuple[int, int, int], group_size: int, generator: Generators = None
) -> Tensor:
    """Draw which of its candidates every latent unit takes at every step.

    Args:
        shape: (T, B, C).
        group_size: k.
        generator: The source, or one per image.

    Returns:
        Numbers from 0 to k - 1, [T, B, C].
    """
    steps, batch_size, channels = shape

    def draw(images: int, source: torch.Generator | None) -> Tensor:
        device = "cpu" if source is None else source.device
        size = (steps, images, channels)
        return torch.randint(group_size, size, generator=source, device=device)

    return draw_each(draw, batch_size, generator, axis=1)


def pick(candidates: Tensor, choice: Tensor) -> Tensor:
    """Return the chosen candidate of every unit: [..., C, k] by [..., C] -> [..., C].

    Example:
        >>> pick(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 1])).tolist()
        [1.0, 0.0]
    """
    return candidates.gather(-1, choice[..., None])[..., 0]


def delayed(z: Tensor) -> Tensor:
    """Return z[n-1] at every step n, [T, ...]; before the first there is no spike.

    Example:
        >>> delayed(torch.tensor([1.0, 1.0, 0.0])).tolist()
        [0.0, 1.0, 1.0]
    """
    return torch.cat([torch.zeros_like(z[:1]), z[:-1]])


def roll_out(
    network: BernoulliLatent,
    rule: Rule,
    start: Tensor,
    spiking_steps: int,
    context: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Let a network draw its spikes in one pass that carries the membranes on: O(T).

    The norms use their running statistics in training too: one step has no statistics that the
    window would have, and what is drawn here is drawn as it will be in generation.

    Args:
        network: The network.
        rule: Called as `rule(n, look)`; returns z[n] [B, C]. `look()` are the candidates
            [B, C, k] of this step.
        start: Zeros [B, C], the spikes before the first step.
        spiking_steps: T.
        context: What else the network is told [T, B, E].

    Returns:
        z [T, B, C], and the candidates [T, B, C, k] of every step. A spike that was drawn is a
        constant to the steps after it.
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
    """Let a network draw its spikes as the authors' code does: every step runs all before it again.

    O(T^2). In eval mode the result is that of `roll_out`. In training mode every prefix is
    normalised by its own statistics, and, where gradients are on, the running ones follow every one
    of them.

    Args:
        network: The network.
        rule: As of `roll_out`; a step in which it does not look is not run.
        start: Zeros [B, C].
        spiking_steps: T.
        context: What else the network is told [T, B, E].

    Returns:
        z [T, B, C], without a gradient.
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
