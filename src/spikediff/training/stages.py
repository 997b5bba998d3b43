"""Two stages as one recipe: what can be said of the second before the first is trained."""

import torch

from spikediff.errors import UserError
from spikediff.training.build import build_dataset
from spikediff.training.networks import build_model
from spikediff.training.ranges import check_ranges
from spikediff.training.recipe import Recipe


def check_both_stages(first: Recipe, second: Recipe) -> None:
    """Refuse a second stage that could not sample from the tokens of the first.

    Args:
        first: Recipe of the autoencoder.
        second: Recipe of the network that generates its tokens.

    Raises:
        UserError: A value lies outside its range, or there are fewer tokens than steps to sample.
    """
    check_ranges(first)
    check_ranges(second)
    images = build_dataset(first.data)
    with torch.device("meta"):
        autoencoder = build_model(first, images.image_size, images.channels)
    height, width = autoencoder.latent_size
    steps = second.sampling.num_inference_steps
    if steps > height * width:
        raise UserError(
            f"sampling.num_inference_steps = {steps} must be at most {height * width}, the tokens "
            f"of an image of {images.image_size} pixels"
        )
