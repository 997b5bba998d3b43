"""What a denoiser denoises: images, unless the network says otherwise by `latent_space`."""

from typing import Any, Protocol, runtime_checkable

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor


class Space(Protocol):
    """How images [B, C, H, W] become what a network denoises, and back.

    Attributes:
        batch_axis: The axis of a sample that counts images.
    """

    batch_axis: int

    def encode(self, images: Tensor) -> Tensor:
        """Return the samples of images, or of noise."""

    def decode(self, sample: Tensor) -> Tensor:
        """Return the images of samples."""

    def seen(self, sample: Tensor) -> dict[str, Tensor]:
        """Return what a callback is shown; the last of it is what it may replace."""

    def keep(self, sample: Tensor, known: Tensor, mask: Tensor) -> Tensor:
        """Return samples with images [B, C, H, W] where the mask [B, 1, H, W] is false."""

    def check_scheduler(self, scheduler: SchedulerMixin, eta: float = 0.0) -> None:
        """Raise a `UserError` for a scheduler whose steps the samples cannot take."""


class ImageSpace:
    """The samples are the images."""

    batch_axis = 0

    def encode(self, images: Tensor) -> Tensor:
        """Return the images."""
        return images

    def decode(self, sample: Tensor) -> Tensor:
        """Return the images."""
        return sample

    def seen(self, sample: Tensor) -> dict[str, Tensor]:
        """Return what a callback is shown: "sample"."""
        return {"sample": sample}

    def keep(self, sample: Tensor, known: Tensor, mask: Tensor) -> Tensor:
        """Return images with the known ones where the mask is false."""
        return torch.where(mask, sample, known)

    def check_scheduler(self, scheduler: SchedulerMixin, eta: float = 0.0) -> None:
        """Accept every scheduler."""


@runtime_checkable
class HasLatentSpace(Protocol):
    """A network that denoises something other than images."""

    def latent_space(self) -> Space:
        """Return the space in which it denoises."""


def space_of(unet: Any) -> Space:
    """Return the space in which a network denoises."""
    return unet.latent_space() if isinstance(unet, HasLatentSpace) else ImageSpace()
