"""The encoder of the Frechet autoencoder distance (FAD) of FSVAE and FSDDIM.

The autoencoder was trained on the data set itself; its 64 latents are the features. Images of
28x28 are resized to 32x32 with a bilinear filter; zero padding instead costs 86 points on MNIST.

The published statistics were computed with batch norm in training mode, in which every feature
depends on the other images of its batch. There are therefore two modes, which must not be mixed:

    published   batch norm with the statistics of each batch of 256 images, in order; compared with
                the statistics that the authors ship
    clean       batch norm with running statistics; compared with statistics of the test set
                computed the same way

Reference:
    Kamata et al. 2022, "Fully spiking variational autoencoder"; weights: mil-tokyo/FSDDIM, `fad/`.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from spikediff.errors import UserError
from spikediff.evaluation.features.network import FeatureNetwork
from spikediff.files.weights import load_renamed, read_state_dict

IMAGE_SIZE = 32
WIDTHS = (32, 64, 128, 256)
PUBLISHED_BATCH_SIZE = 256
_DECODER = ("decoder_input.", "decoder.", "final_layer.")  # in the authors' file; unused here
_RUNNING = (".running_mean", ".running_var", ".num_batches_tracked")  # buffers of batch norm


class AutoencoderEncoder(nn.Module):
    """Four strided convolutions and a linear layer: images [B, C, 32, 32] -> latents [B, D].

    `batch_statistics` makes batch norm use the statistics of the batch.
    """

    def __init__(self, channels: int, latent: int, *, batch_statistics: bool) -> None:
        super().__init__()
        widths = (channels, *WIDTHS)
        self.encoder = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(c_in, c_out, 3, stride=2, padding=1),
                    # Without running statistics, none can be updated by mistake.
                    nn.BatchNorm2d(c_out, track_running_stats=not batch_statistics),
                    nn.LeakyReLU(),
                )
                for c_in, c_out in zip(widths, WIDTHS, strict=False)
            )
        )
        side = IMAGE_SIZE // 2 ** len(WIDTHS)
        self.latent_layer = nn.Linear(WIDTHS[-1] * side * side, latent)

    def forward(self, images: Tensor) -> Tensor:
        """Return the latents [B, D] of images [B, C, 32, 32] in [-1, 1]."""
        latents: Tensor = self.latent_layer(self.encoder(images).flatten(1))
        return latents


def load_autoencoder(
    path: Path | str, mode: str = "clean", device: torch.device | str = "cpu"
) -> FeatureNetwork:
    """Load the feature network `fad` from `mnist_64.pth` or `fashion_64.pth`, or their safetensors.

    The file may lack the decoder.
    """
    path = Path(path)
    published = mode == "published"
    unused = _RUNNING if published else ()
    state = {
        key: value
        for key, value in read_state_dict(path).items()
        if not key.startswith(_DECODER) and not key.endswith(unused)
    }
    try:
        channels = state["encoder.0.0.weight"].shape[1]
        latent = state["latent_layer.weight"].shape[0]
    except (KeyError, IndexError) as error:
        raise UserError(
            f"{path}: not a Frechet autoencoder (no encoder and latent_layer); give mnist_64.pth "
            "or fashion_64.pth"
        ) from error
    module = AutoencoderEncoder(channels, latent, batch_statistics=published)
    load_renamed(module, state, str(path))
    return FeatureNetwork(
        module,
        name="fad",
        image_size=IMAGE_SIZE,
        channels=channels,
        mode=mode,
        batch_size=PUBLISHED_BATCH_SIZE if published else None,
        device=device,
    )
