"""A feature network that takes no time: the pixels of 8x8 images and a softmax of their columns."""

from torch import nn

from spikediff.evaluation.features import FEATURES, FeatureSpec
from spikediff.evaluation.features.network import FeatureNetwork

PROTOCOL = """
name: pixels
summary: distances of pixels
caveat: pixels are no features
num_samples: 100
measurements:
  - {network: pixels, metrics: [frechet, kernel, inception_score, neighbours]}
inception_splits: 2
kernel_subsets: 5
kernel_subset_size: 20
"""


class Pixels(nn.Module):
    def forward(self, images):
        return images.flatten(1), images.mean(dim=(1, 2))


def load_pixels(**_):
    return FeatureNetwork(Pixels(), name="module:pixels", image_size=8, channels=1)


PIXELS = FeatureSpec("pixels", load_pixels)


def install():
    FEATURES["pixels"] = PIXELS
