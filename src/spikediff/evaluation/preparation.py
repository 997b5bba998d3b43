"""Bringing images to what a feature network takes, the same way for real and generated ones."""

from dataclasses import dataclass

import torch
from torch import Tensor

from spikediff.data import Fit
from spikediff.data.resize import fit_pixels
from spikediff.errors import UserError


@dataclass(frozen=True)
class Preparation:
    """Size and channels of a feature network's images, and how they are reached.

    Attributes:
        image_size: Side in pixels.
        channels: 1 or 3.
        resize_filter: PIL's filter, a key of `spikediff.data.RESIZE_FILTERS`; None refuses images
            of another size.

    Example:
        >>> prepare = Preparation(image_size=4, channels=3, resize_filter="bilinear")
        >>> prepare(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape
        torch.Size([2, 3, 4, 4])
    """

    image_size: int
    channels: int
    resize_filter: str | None

    def __call__(self, images: Tensor) -> Tensor:
        """Resize by PIL and set the channels.

        Args:
            images: uint8 [N, C, H, W], square.

        Returns:
            uint8 [N, channels, image_size, image_size].

        Raises:
            UserError: No squares; another size and no filter; colours for a grey network.
        """
        _, C, H, W = images.shape
        if H != W:
            raise UserError(f"images are {W}x{H}; features are taken of squares, crop them first")
        if self.image_size != H and self.resize_filter is None:
            raise UserError(
                f"images are {H}x{W} but the feature network takes {self.image_size}x"
                f"{self.image_size}, and the protocol names no resize_filter"
            )
        if C == 3 and self.channels == 1:
            images = _grey(images)
        pixels = images.permute(0, 2, 3, 1)  # [N, H, W, C]
        pixels = pixels[..., 0] if pixels.shape[3] == 1 else pixels
        fit = Fit(self.image_size, self.channels, resize_filter=self.resize_filter or "bilinear")
        return fit_pixels(pixels.contiguous().numpy(), fit)

    def notes(self, images: Tensor) -> list[str]:
        """Say what will be done to images like these [N, C, H, W]."""
        C, side = images.shape[1], images.shape[2]
        notes = []
        if side != self.image_size:
            notes.append(
                f"resized from {side} to {self.image_size} pixels (PIL, {self.resize_filter})"
            )
        if self.channels > C:
            notes.append("the grey channel is repeated three times")
        if self.channels < C:
            notes.append("stored as RGB without colours; one channel is taken")
        return notes


def _grey(images: Tensor) -> Tensor:
    """Return one channel [N, 1, H, W] of images [N, 3, H, W] whose channels are all alike."""
    first = images[:, :1]
    if not torch.equal(first.expand_as(images), images):
        raise UserError(
            "images have colours but the feature network is for grey ones; convert them"
        )
    return first
