"""What the variational autoencoders share: the sizes that they may have, and their loss."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from spikediff.errors import UserError


def check_autoencoder_sizes(
    network: str, sample_size: int, in_channels: int, channels: Sequence[int], latent_channels: int
) -> int:
    """Return the side of the smallest feature map; refuse sizes of which there is none.

    Args:
        network: Name of the network, for the message.
        sample_size: Height and width of the images in pixels.
        in_channels: Channels of the image.
        channels: Width of every level; each halves the image.
        latent_channels: Units of the latent.

    Raises:
        UserError: The image cannot be halved at all levels, or a number is not positive.

    Example:
        >>> check_autoencoder_sizes("VAE", 28, 1, (32, 64, 128, 256), 128)
        Traceback (most recent call last):
        ...
        spikediff.errors.UserError: VAE: sample_size=28 must be divisible by 16, because \
channels=(32, 64, 128, 256) has 4 levels
    """
    factor: int = 2 ** len(channels)
    if not channels or sample_size < 1 or sample_size % factor:
        raise UserError(
            f"{network}: sample_size={sample_size} must be divisible by {factor}, because "
            f"channels={tuple(channels)} has {len(channels)} levels"
        )
    if min(*channels, in_channels, latent_channels) < 1:
        raise UserError(
            f"{network}: in_channels={in_channels}, channels={tuple(channels)} and "
            f"latent_channels={latent_channels} must be positive"
        )
    return sample_size // factor


def level_widths(
    in_channels: int, channels: Sequence[int]
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return the channels in and out of every convolution, on the way down and on the way up.

    Args:
        in_channels: Channels of the image.
        channels: Width of every level.

    Example:
        >>> level_widths(1, (32, 64))
        ([(1, 32), (32, 64)], [(64, 32), (32, 32)])
    """
    down = pairwise([in_channels, *channels])
    up = pairwise([*reversed(channels), channels[0]])  # the last one makes no image yet
    return list(down), list(up)


def check_images(network: str, images: Tensor, in_channels: int, sample_size: int) -> None:
    """Refuse images that the network was not made for.

    Args:
        network: Name of the network, for the message.
        images: The images.
        in_channels: Channels that they must have.
        sample_size: Height and width that they must have.

    Raises:
        UserError: The shape is not [B, in_channels, sample_size, sample_size].
    """
    shape = (in_channels, sample_size, sample_size)
    if images.dim() != 4 or tuple(images.shape[1:]) != shape:
        raise UserError(
            f"{network}: expects images [B, {in_channels}, {sample_size}, {sample_size}], got "
            f"{tuple(images.shape)}; resize them, or make the network for their size"
        )


def autoencoder_loss(reconstruction: Tensor, divergence: Tensor, weight: float) -> Tensor:
    r"""Return the loss of a variational autoencoder: $MSE + w\,D(q, p)$.

    Args:
        reconstruction: Mean squared error of the images, 0-dim.
        divergence: Distance of posterior and prior, 0-dim.
        weight: w.

    Example:
        >>> import torch
        >>> autoencoder_loss(torch.tensor(1.0), torch.tensor(4.0), 0.5).item()
        3.0
    """
    return reconstruction + weight * divergence


def placed(model: Any) -> torch.device:
    """Return where a model computes: with its weights, or, offloaded, where a hook brings them."""
    hooks = (getattr(module, "_hf_hook", None) for module in model.modules())
    devices = (getattr(hook, "execution_device", None) for hook in hooks)
    found = next((device for device in devices if device is not None), model.device)
    return torch.device(found)
