"""Any module as a feature network."""

import torch
from torch import nn

from spikediff.data import to_model_range
from spikediff.evaluation.features.extractor import FeatureExtractor, Normalise


def module_features(
    module: nn.Module,
    *,
    name: str,
    image_size: int,
    channels: int,
    normalise: Normalise = to_model_range,
    device: torch.device | str = "cpu",
) -> FeatureExtractor:
    """Make a feature network of your own module.

    Args:
        module: Takes normalised images [B, C, H, W]; returns features [B, D], or a pair of
            features and class logits [B, K]. It is copied and put into evaluation mode.
        name: What reports call it, after `module:`.
        image_size: Side of the images in pixels.
        channels: 1 or 3.
        normalise: Turns uint8 images into what the module expects; to [-1, 1] by default.
        device: Where it runs.

    Returns:
        The network. Its fingerprint covers the weights and the printed layout of the module; code
        that neither shows is not covered.

    Raises:
        UserError: The module does not take such images, or does not return such features.

    Example:
        >>> module_features(nn.Flatten(), name="pixels", image_size=4, channels=3).name
        'module:pixels'
    """
    return FeatureExtractor(
        module,
        name=f"module:{name}",
        image_size=image_size,
        channels=channels,
        normalise=normalise,
        device=device,
    )
