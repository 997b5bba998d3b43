"""Nearest training images: whether a generator copies."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Nearest:
    """The nearest training image of every generated one.

    Attributes:
        index: Its place in the training set, int64 [N].
        distance: Root mean square difference per pixel, in the units of the images [N].
    """

    index: Tensor
    distance: Tensor


def nearest_images(images: Tensor, training: Tensor) -> Nearest:
    """Find the training image closest to each image, by Euclidean distance of pixels.

    Args:
        images: Generated images [N, C, H, W].
        training: Training images [M, C, H, W] in the same range.

    Returns:
        The nearest images; a distance of 0 is an exact copy.

    Example:
        >>> training = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
        >>> nearest_images(torch.full((1, 1, 2, 2), 0.75), training)
        Nearest(index=tensor([1]), distance=tensor([0.2500]))
    """
    pixels = images[0].numel()
    # By differences, not by the expanded square, which loses the small distances to rounding.
    distances = torch.cdist(
        images.flatten(1), training.flatten(1), compute_mode="donot_use_mm_for_euclid_dist"
    )
    nearest = distances.min(dim=1)
    return Nearest(nearest.indices, nearest.values / pixels**0.5)
