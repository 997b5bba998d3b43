"""What a feature network promises to those who measure distances with it."""

from typing import NamedTuple, Protocol

from torch import Tensor

MODES = ("clean", "published")


class ChannelsReplicated(UserWarning):
    """Grey images were repeated over three channels, for a network that knows colour images."""


class Activations(NamedTuple):
    """What a feature network says of a batch of images.

    Attributes:
        features: float32 [B, D].
        probabilities: Class probabilities, float32 [B, K]; None without a classifier.
    """

    features: Tensor
    probabilities: Tensor | None


class FeatureNetwork(Protocol):
    """A fixed network that turns images into the vectors that distances compare.

    Attributes:
        name: `fad`, `classifier`, `resnet20`, `resnet56`, `inception` or `module:<name>`.
        mode: `clean` (the same image always has the same feature) or `published` (as the
            published numbers were made). Distances of different modes are never compared.
        dimensions: D.
        image_size: Side of the images that it takes, in pixels.
        channels: 1 or 3. A network of three takes grey images too, and warns once.
        batch_size: Not None where features depend on the batch (batch norm on batch statistics):
            images must then come in order, in batches of exactly this, the last one smaller.
        fingerprint: SHA-256 over layout, weights and mode: the key of a stored statistic.
    """

    name: str
    mode: str
    dimensions: int
    image_size: int
    channels: int
    batch_size: int | None
    fingerprint: str

    def __call__(self, images: Tensor) -> Activations:
        """Return the activations of images, uint8 [B, C, H, W], H = W = `image_size`.

        Raises:
            UserError: Another type, size or number of channels; too large a batch; NaN features.
        """
