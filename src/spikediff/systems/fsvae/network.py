"""The fully spiking variational autoencoder: every layer from the image to the read-out spikes.

Reference: Kamata, Mukuta, Harada, "Fully spiking variational autoencoder", AAAI 2022
(arXiv 2110.00375). docs/systems/fsvae.md lists where the authors' code differs from the paper, and
which is the default here.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from spikediff.diffusion.return_dict import Answering
from spikediff.diffusion.seeds import Generators
from spikediff.errors import UserError, check_number
from spikediff.layers import SpikingLayer, over_time, threshold_layer
from spikediff.layers.batch_invariant import elementwise
from spikediff.layers.coding import decayed_sum
from spikediff.layers.conv import doubling_convs, halving_convs
from spikediff.layers.sizes import choose, keyword_arguments, make_neuron_maker
from spikediff.systems.fsvae.autoencoder import Autoencoder, AutoencoderOutput
from spikediff.systems.fsvae.latent import (
    BernoulliLatent,
    Coins,
    Rule,
    delayed,
    draw_choices,
    draw_coins,
    pick,
    roll_out,
    roll_out_prefixes,
    scheduled_rule,
)
from spikediff.systems.fsvae.loss import SPIKE_DIVERGENCES

_log = logging.getLogger("spikediff")

PAPER_SURROGATE = {"name": "rectangular", "width": 0.2}
TRAINING_DRAWS = {
    "stateful": "in one pass, by the norms' running statistics",
    "prefixes": "every prefix of the window again, by its own statistics (released code)",
}


@dataclass
class FSVAEOutput(AutoencoderOutput):
    """The output, with the candidates, 0 or 1, of both sides [T, B, latent_channels, k]."""

    posterior: Tensor
    prior: Tensor


class LatentDraws(NamedTuple):
    """The random numbers of a call of `FSVAE`.

    Attributes:
        choice: The candidate chosen by every latent unit, [T, B, latent_channels], 0 to k - 1.
        coins: Those of scheduled sampling; None without it.
    """

    choice: Tensor
    coins: Coins | None = None


def fsvae_neuron_options(given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    r"""Return the options of the LIF neuron in FSVAE's release, with replacements.

    $u[n] = 0.25\,u[n-1](1 - s[n-1]) + I[n]$, firing at $u > 0.2$. The surrogate is centred on the
    membrane 0, independently of the threshold; the paper's `PAPER_SURROGATE`, on the threshold.

    Example:
        >>> fsvae_neuron_options({"v_threshold": 0.5})["surrogate"]
        {'name': 'rectangular', 'width': 1.0, 'center': -0.5}
    """
    given = keyword_arguments("FSVAE", given)
    options = {"decay_input": False, "v_threshold": 0.2, "strict_threshold": True} | given
    if "tau" not in given:
        options.setdefault("decay", 0.25)
    threshold = options["v_threshold"]
    center = -float(threshold) if isinstance(threshold, Real) else 0.0  # the neuron refuses others
    return {"surrogate": {"name": "rectangular", "width": 1.0, "center": center}} | options


class FSVAE(Autoencoder):
    """The spiking autoencoder: 4,054,755 parameters by default, 4,053,601 for grey images.

    Encoder and decoder process the whole window at once. Between them, the posterior draws the
    latent spikes from the image and its earlier spikes, and the prior learns to draw
    such spikes without the image. `generate` decodes spikes drawn from the prior.

    Args:
        sample_size: Height and width of the images.
        in_channels: Channels of the image.
        channels: Width of every level; each halves the image. The authors' large network, for
            CelebA at 64x64, has (32, 64, 128, 256, 512): 6,681,571 parameters.
        latent_channels: Latent units.
        group_size: k, the number of candidates of a latent unit per step.
        spiking_steps: T, the number of spiking steps of a call.
        neuron: Key of `spikediff.neurons.NEURONS`.
        neuron_options: Keyword arguments of the neuron; for "lif", the defaults are
            `fsvae_neuron_options`.
        training_draws: How posterior and prior draw the spikes they continue from in training;
            a key of `TRAINING_DRAWS`.
        divergence: Key of `SPIKE_DIVERGENCES`: "mmd", or "kl" for the smoothed Bernoulli one.
        divergence_weight: Its weight in the loss; by default the authors' (1, and 1e-4).

    Example:
        >>> model = FSVAE(8, 1, channels=(4, 8), latent_channels=6, group_size=3, spiking_steps=4)
        >>> model(torch.rand(2, 1, 8, 8) * 2 - 1).sample.shape
        torch.Size([2, 1, 8, 8])
        >>> model.generate(3).shape
        torch.Size([3, 1, 8, 8])
    """

    distance: Callable[[Tensor, Tensor], Tensor]
    readout: Callable[[Tensor], Tensor]

    @register_to_config
    def __init__(
        self,
        sample_size: int = 32,
        in_channels: int = 3,
        channels: Sequence[int] = (32, 64, 128, 256),
        latent_channels: int = 128,
        group_size: int = 20,
        spiking_steps: int = 16,
        neuron: str = "lif",
        neuron_options: Mapping[str, Any] | None = None,
        training_draws: str = "stateful",
        divergence: str = "mmd",
        divergence_weight: float | None = None,
    ) -> None:
        super().__init__()
        self._set_sizes(
            sample_size,
            channels,
            in_channels=in_channels,
            latent_channels=latent_channels,
            spiking_steps=spiking_steps,
            group_size=group_size,
        )
        choose("FSVAE", TRAINING_DRAWS, "training_draws", training_draws)
        distance, weight = choose("FSVAE", SPIKE_DIVERGENCES, "divergence", divergence)
        self.register_to_config(
            divergence_weight=weight if divergence_weight is None else divergence_weight
        )
        options = fsvae_neuron_options(neuron_options) if neuron == "lif" else neuron_options
        make_neuron = make_neuron_maker("FSVAE", neuron, options)
        layer = partial(threshold_layer, neuron=make_neuron)
        self.encoder = nn.ModuleList(
            layer(conv, conv.out_channels) for conv in halving_convs([in_channels, *channels])
        )
        flat = channels[-1] * self.side**2
        self.to_latent = layer(nn.Linear(flat, latent_channels), latent_channels)
        latent = partial(
            BernoulliLatent, latent_channels, group_size=group_size, neuron=make_neuron
        )
        self.posterior = latent(latent_channels)
        self.prior = latent(0)
        self.from_latent = layer(nn.Linear(latent_channels, flat), flat)
        widths = [*reversed(channels), channels[0]]  # the last one makes no image yet
        self.decoder = nn.ModuleList(
            layer(conv, conv.out_channels) for conv in doubling_convs(widths)
        )
        self.head = nn.ConvTranspose2d(channels[0], in_channels, 3, padding=1)
        self.distance = distance
        self.readout = decayed_sum

    def forward(
        self,
        images: Tensor,
        generator: Generators = None,
        draws: LatentDraws | None = None,
        scheduled_sampling: float = 0.0,
        return_dict: bool = True,
    ) -> FSVAEOutput | tuple[Any, ...]:
        """Encode, draw and decode a batch of images [B, C, H, W] in [-1, 1].

        Args:
            images: The images.
            generator: The source of random numbers, or one per image.
            draws: The random numbers from `draw`, instead of a generator.
            scheduled_sampling: Probability that the prior, in training, continues from its own
                guess; see `FSVAEObjective`. Ignored in eval mode.
            return_dict: False returns a tuple.
        """
        self._check_images(images)
        check_number("FSVAE: scheduled_sampling", scheduled_sampling, 0, 1)
        probability = scheduled_sampling if self.training else 0.0
        draws = draws or self.draw(len(images), generator, probability)
        z, posterior = self._infer(self.encode(images), draws.choice.to(images.device))
        prior = self.prior(delayed(self._follow(z.detach(), probability, draws.coins)))
        real = images.dtype  # half precision from autocast is compared in full precision
        divergence = self.distance(posterior.to(real).mean(-1), prior.to(real).mean(-1))
        output = FSVAEOutput(*self._scores(images, z, divergence), posterior, prior)
        return output if return_dict else output.to_tuple()

    if TYPE_CHECKING:
        __call__: Answering[..., FSVAEOutput]

    def compile(self, *_args: Any, **_options: Any) -> None:
        """Leave the network as it is: compiled layer by layer, a training step gains nothing."""
        _log.warning("compile has no effect: FSVAE draws its spikes step by step")

    def draw(
        self, batch_size: int, generator: Generators = None, scheduled_sampling: float = 0.0
    ) -> LatentDraws:
        """Draw the random numbers of a call; `coins` only for scheduled sampling."""
        shape = (self.config.spiking_steps, batch_size, self.config.latent_channels)
        choice = draw_choices(shape, self.config.group_size, generator)
        if not scheduled_sampling:
            return LatentDraws(choice)
        shared = self.config.training_draws == "prefixes"
        return LatentDraws(choice, draw_coins(shape, generator, shared))

    @apply_forward_hook
    def encode(self, images: Tensor) -> Tensor:
        """Return the spikes [T, B, latent_channels] of images [B, C, H, W]."""
        first: SpikingLayer = self.encoder[0]  # type: ignore[assignment]
        spikes = first.of_constant(images, self.config.spiking_steps)
        for layer in self.encoder[1:]:
            spikes = layer(spikes)  # [T, B, C, H, W]
        return self.to_latent(spikes.flatten(2))  # type: ignore[no-any-return]

    @apply_forward_hook
    def decode(self, z: Tensor) -> Tensor:
        """Return the images [B, C, H, W] in [-1, 1] of latent spikes [T, B, latent_channels]."""
        spikes = self.from_latent(z)  # [T, B, C * h * w]
        h = spikes.view(*spikes.shape[:2], -1, self.side, self.side)  # [T, B, C, h, w]
        for layer in self.decoder:
            h = layer(h)
        return elementwise(torch.tanh, self.readout(over_time(self.head, h)))

    def _generate(self, batch_size: int, generator: torch.Generator | None) -> Tensor:
        device = self._execution_device()
        choice = self.draw(batch_size, generator).choice.to(device)
        start = torch.zeros(choice.shape[1:], device=device, dtype=self.dtype)
        z, _ = roll_out(self.prior, _picks(choice), start, len(choice))
        images: Tensor = self.decode(z)
        return images

    def _infer(self, context: Tensor, choice: Tensor) -> tuple[Tensor, Tensor]:
        """Return the posterior's spikes z [T, B, C], and the candidates [T, B, C, k] about them.

        In training, the drawn spikes go through it again, in one pass over the window that
        normalises with the statistics of the whole window and carries the gradient.
        """
        if not self.training:
            return roll_out(
                self.posterior,
                _picks(choice),
                context.new_zeros(context.shape[1:]),
                len(context),
                context,
            )
        z = self._draw_window(self.posterior, _picks(choice), context, context)
        candidates = self.posterior(delayed(z), context)
        return pick(candidates, choice), candidates

    def _follow(self, z: Tensor, probability: float, coins: Coins | None) -> Tensor:
        """Return the spikes that the prior continues from: z, and some of its own."""
        if not probability:
            return z
        if coins is None:
            raise UserError("FSVAE: the draws have no coins for scheduled sampling; draw them too")
        return self._draw_window(self.prior, scheduled_rule(z, probability, coins), z)

    def _draw_window(
        self, network: BernoulliLatent, rule: Rule, like: Tensor, context: Tensor | None = None
    ) -> Tensor:
        """Return a network's drawn spikes [T, B, C], with zeros for the unused last step."""
        steps, start = len(like) - 1, torch.zeros_like(like[0])
        if not steps:
            return start[None]
        if self.config.training_draws == "prefixes":
            z = roll_out_prefixes(network, rule, start, steps, context)
        else:
            with torch.no_grad():
                z, _ = roll_out(network, rule, start, steps, context)
        return torch.cat([z, start[None]])


def _picks(choice: Tensor) -> Rule:
    """Return the rule that takes the chosen candidates, for choices [T, B, C]."""
    return lambda n, look: pick(look(), choice[n])
