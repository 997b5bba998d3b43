"""Inception v3 as the FID uses it: 2,048 pooled features, resized as TensorFlow 1 did.

`torch-fidelity`, an extra that brings torchvision, gives the network; a file gives the weights.

Reference:
    Heusel et al. 2017; Obukhov et al. 2020, torch-fidelity (`feature_extractor_weights_path`).
"""

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from spikediff.errors import UserError
from spikediff.evaluation.features.network import FeatureNetwork, import_library
from spikediff.files.weights import read_state_dict

NATIVE_SIZE = 299
LAYERS = ("2048", "logits_unbiased")  # torch-fidelity's names; its own score takes these logits


class InceptionFeatures(nn.Module):
    """torch-fidelity's extractor as a module: uint8 [B, 3, H, W] -> ([B, 2048], [B, 1008])."""

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and logits; the extractor resizes to 299x299."""
        features, logits = self.extractor(images)
        return features, logits


def as_stored(images: Tensor) -> Tensor:
    """Return the uint8 images unchanged: torch-fidelity normalises them."""
    return images


def load_inception(
    path: Path | str, image_size: int = NATIVE_SIZE, device: torch.device | str = "cpu"
) -> FeatureNetwork:
    """Load Inception v3 with torch-fidelity's weights, `weights-inception-2015-12-05-6726825d.pth`.

    Args:
        path: The file, or the same tensors as safetensors.
        image_size: Side of the images; the network resizes them to 299.
        device: Where the network runs.

    Raises:
        UserError: torch-fidelity does not import, or the file holds other weights.
    """
    library = import_library("inception", "torch_fidelity.feature_extractor_inceptionv3")
    state = read_state_dict(Path(path))
    with tempfile.TemporaryDirectory() as folder:
        # torch-fidelity unpickles whatever it is given: hand it only what the safe reader passed.
        safe = Path(folder) / "inception.pth"
        torch.save(state, safe)
        try:
            extractor = library.FeatureExtractorInceptionV3(
                "inception-v3-compat", list(LAYERS), feature_extractor_weights_path=str(safe)
            )
        except RuntimeError as error:  # load_state_dict lists every key; the first line says enough
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: not the weights of Inception v3 ({reason})") from error
    return FeatureNetwork(
        InceptionFeatures(extractor),
        name="inception",
        image_size=image_size,
        channels=3,
        normalise=as_stored,
        device=device,
    )
