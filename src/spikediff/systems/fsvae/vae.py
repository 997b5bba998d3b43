"""The ordinary baseline of FSVAE: a VAE with the same widths and a Gaussian latent.

Reference: Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014; the baseline in Kamata
et al., "Fully spiking variational autoencoder", AAAI 2022. docs/systems/fsvae.md says
which parts of that baseline are published.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from spikediff.diffusion.return_dict import Answering
from spikediff.diffusion.seeds import Generators, draw_each
from spikediff.layers.batch_invariant import elementwise
from spikediff.layers.conv import doubling_convs, halving_convs
from spikediff.layers.norm import BatchNorm2d
from spikediff.systems.fsvae.autoencoder import Autoencoder, AutoencoderOutput
from spikediff.systems.fsvae.loss import gaussian_kl


@dataclass
class VAEOutput(AutoencoderOutput):
    """The output, with the posterior [B, latent_channels]; the divergence is in nats."""

    mean: Tensor
    log_variance: Tensor


class VAE(Autoencoder):
    """The baseline: 1,181,795 parameters by default, 1,180,641 and 10.2 MMAC for grey images.

    `z = mu(x) + sigma(x) eps`. Batch norm and leaky ReLU replace FSVAE's tdBN and neurons.

    Args:
        sample_size: Height and width of the images.
        in_channels: Channels of the image.
        channels: Width of every level; each halves the image. The authors' large network, for
            CelebA at 64x64, has (32, 64, 128, 256, 512): 3,937,635 parameters.
        latent_channels: Latent units.
        divergence_weight: Weight of the divergence in the loss. The authors' is one over the number
            of batches per epoch: 1/240 for the 60,000 images of MNIST in batches of 250.

    Example:
        >>> model = VAE(8, 1, channels=(4, 8), latent_channels=6)
        >>> model(torch.rand(2, 1, 8, 8) * 2 - 1).sample.shape
        torch.Size([2, 1, 8, 8])
        >>> model.generate(3).shape
        torch.Size([3, 1, 8, 8])
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 32,
        in_channels: int = 3,
        channels: Sequence[int] = (32, 64, 128, 256),
        latent_channels: int = 128,
        divergence_weight: float = 1 / 240,
    ) -> None:
        super().__init__()
        self._set_sizes(
            sample_size, channels, in_channels=in_channels, latent_channels=latent_channels
        )
        flat = channels[-1] * self.side**2
        self.encoder = nn.Sequential(*map(_activated, halving_convs([in_channels, *channels])))
        self.to_mean = nn.Linear(flat, latent_channels)
        self.to_log_variance = nn.Linear(flat, latent_channels)
        self.from_latent = nn.Linear(latent_channels, flat)
        widths = [*reversed(channels), channels[0]]  # the last one makes no image yet
        self.decoder = nn.Sequential(*map(_activated, doubling_convs(widths)))
        self.head = nn.ConvTranspose2d(channels[0], in_channels, 3, padding=1)

    def forward(
        self,
        images: Tensor,
        generator: Generators = None,
        draws: Tensor | None = None,
        return_dict: bool = True,
    ) -> VAEOutput | tuple[Any, ...]:
        """Encode, draw and decode a batch of images; see `FSVAE.forward`."""
        self._check_images(images)
        eps = self.draw(len(images), generator) if draws is None else draws
        mean, log_variance = self.encode(images)
        z = mean + (0.5 * log_variance).exp() * eps.to(mean)
        divergence = gaussian_kl(mean.to(images.dtype), log_variance.to(images.dtype))
        output = VAEOutput(*self._scores(images, z, divergence), mean, log_variance)
        return output if return_dict else output.to_tuple()

    if TYPE_CHECKING:
        __call__: Answering[..., VAEOutput]

    def draw(self, batch_size: int, generator: Generators = None) -> Tensor:
        """Draw eps [B, latent_channels] for a batch, standard normal."""

        def draw(images: int, source: torch.Generator | None) -> Tensor:
            device = "cpu" if source is None else source.device
            size = (images, self.config.latent_channels)
            return torch.randn(size, generator=source, device=device)

        return draw_each(draw, batch_size, generator)

    @apply_forward_hook
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and ln sigma^2 [B, latent_channels] of images [B, C, H, W]."""
        h = self.encoder(images).flatten(1)
        return self.to_mean(h), self.to_log_variance(h)

    @apply_forward_hook
    def decode(self, z: Tensor) -> Tensor:
        """Return the images [B, C, H, W] in [-1, 1] of latents [B, latent_channels]."""
        h = self.from_latent(z).view(len(z), -1, self.side, self.side)  # [B, C, h, w]
        return elementwise(torch.tanh, self.head(self.decoder(h)))

    def _generate(self, batch_size: int, generator: torch.Generator | None) -> Tensor:
        z = self.draw(batch_size, generator).to(self._execution_device(), self.dtype)
        images: Tensor = self.decode(z)
        return images


def _activated(conv: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
    return nn.Sequential(conv, BatchNorm2d(conv.out_channels), nn.LeakyReLU())
