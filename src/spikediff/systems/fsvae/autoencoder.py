"""The base of FSVAE and the ordinary VAE: sizes, the loss of a call, and generation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils import BaseOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from spikediff.diffusion.model import SpikingModel
from spikediff.diffusion.seeds import Generators, draw_each
from spikediff.errors import UserError, check_number
from spikediff.layers import running_statistics
from spikediff.layers.sizes import check_halvings, check_positive, check_widths


@dataclass
class AutoencoderOutput(BaseOutput):
    """Output of an autoencoder.

    Attributes:
        sample: Reconstructions [B, C, H, W] in [-1, 1].
        loss: `reconstruction + divergence_weight * divergence`, 0-dim.
        reconstruction: Mean squared error, 0-dim.
        divergence: Distance of posterior and prior, 0-dim, unweighted.
        latent: The drawn spikes [T, B, latent_channels], or numbers [B, latent_channels].
    """

    sample: Tensor
    loss: Tensor
    reconstruction: Tensor
    divergence: Tensor
    latent: Tensor


class Autoencoder(SpikingModel):
    """A variational autoencoder; a subclass encodes, draws and decodes."""

    def _set_sizes(self, sample_size: int, channels: Sequence[int], **sizes: int) -> None:
        """Check the sizes; set `side`, the height and width of the smallest level."""
        name = type(self).__name__
        check_positive(name, sample_size=sample_size, **sizes)
        check_widths(name, channels=channels)
        check_halvings(name, sample_size, len(channels), channels=channels)
        weight = self.config.divergence_weight
        if weight is not None:
            check_number(f"{name}: divergence_weight", weight, 0)
        self.side = sample_size // 2 ** len(channels)

    def _check_images(self, images: Tensor) -> None:
        shape = (self.config.in_channels, self.config.sample_size, self.config.sample_size)
        if images.dim() != 4 or tuple(images.shape[1:]) != shape:
            raise UserError(
                f"{type(self).__name__}: expects images [B, {', '.join(map(str, shape))}], got "
                f"{tuple(images.shape)}; resize them, or make the network for their size"
            )

    def _scores(self, images: Tensor, z: Tensor, divergence: Tensor) -> tuple[Tensor, ...]:
        """Return the fields of `AutoencoderOutput`."""
        sample = self.decode(z)
        # Half precision from autocast is compared in full precision.
        reconstruction = nn.functional.mse_loss(sample.to(images.dtype), images)
        loss = reconstruction + self.config.divergence_weight * divergence
        return sample, loss, reconstruction, divergence, z

    def decode(self, z: Tensor) -> Tensor:
        """Return the images [B, C, H, W] in [-1, 1] of latents."""
        raise NotImplementedError

    @apply_forward_hook
    @torch.no_grad()
    def generate(self, batch_size: int = 1, generator: Generators = None) -> Tensor:
        """Draw latents from the prior; return their images [B, C, H, W] in [-1, 1].

        Args:
            batch_size: The number of images.
            generator: One for all images; or one per image, and then images are made one by one,
                because the rounding of a matrix product depends on the batch size.
        """
        check_number(f"{type(self).__name__}: batch_size", batch_size, 1, whole=True)
        with running_statistics(self):
            return draw_each(self._generate, batch_size, generator)

    def _generate(self, batch_size: int, generator: torch.Generator | None) -> Tensor:
        raise NotImplementedError

    def _execution_device(self) -> torch.device:
        """Return the device of the model's computation, also with offloaded weights."""
        hooks: Any = (getattr(module, "_hf_hook", None) for module in self.modules())
        devices = (getattr(hook, "execution_device", None) for hook in hooks)
        found = next((device for device in devices if device is not None), self.device)
        return torch.device(found)
