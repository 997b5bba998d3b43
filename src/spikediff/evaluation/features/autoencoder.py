"""The Frechet autoencoder distance (FAD): the encoder that FSVAE and FSDDIM are measured with.

An autoencoder was trained on the data set itself; its 64 latents are the features. Images are
32x32, resized from 28x28 with a bilinear filter: zero padding instead costs 86 points on MNIST.

The published statistics were made with batch norm in training mode: every feature depends on the
other images of its batch. Hence two modes that must not be mixed:

    published   batch norm on the statistics of each batch of 256 images, in order, against the
                statistics that the authors ship
    clean       running statistics, against statistics of the test set made the same way

Reference:
    Kamata et al. 2022, "Fully spiking variational autoencoder"; weights: mil-tokyo/FSDDIM, `fad/`.
"""

from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spikediff.data.arrays import read_npz
from spikediff.errors import UserError, suggestion
from spikediff.evaluation.features.network import MODES, FeatureExtractor
from spikediff.evaluation.frechet import Moments
from spikediff.files.weights import load_renamed, read_state_dict

IMAGE_SIZE = 32
WIDTHS = (32, 64, 128, 256)
PUBLISHED_BATCH_SIZE = 256
_DECODER = ("decoder_input.", "decoder.", "final_layer.")  # in the authors' file, not needed here


class AutoencoderEncoder(nn.Module):
    """Four strided convolutions and a linear layer: images [B, C, 32, 32] -> latents [B, D].

    Args:
        channels: C.
        latent: D.
        batch_statistics: Whether batch norm normalises by the batch (published) or by the running
            statistics that it was trained with (clean).
    """

    def __init__(self, channels: int, latent: int, *, batch_statistics: bool) -> None:
        super().__init__()
        widths = (channels, *WIDTHS)
        self.encoder = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(c_in, c_out, 3, stride=2, padding=1),
                    # Without running statistics there are none to be changed by mistake.
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
) -> FeatureExtractor:
    """Load the encoder of a Frechet autoencoder from the authors' weights.

    Args:
        path: `mnist_64.pth` or `fashion_64.pth`, or the same tensors as safetensors; with or
            without the decoder.
        mode: `clean` or `published`.
        device: Where it runs.

    Returns:
        The feature network `fad`; channels and latents are read off the weights.

    Raises:
        UserError: An unknown mode, or a file that does not hold such an encoder.
    """
    if mode not in MODES:
        raise UserError(f"fad: unknown mode {mode!r}; {suggestion(mode, MODES)}")
    path = Path(path)
    published = mode == "published"
    unused = (*_DECODER, *(_running(len(WIDTHS)) if published else ()))
    state = {k: v for k, v in read_state_dict(path).items() if not k.startswith(unused)}
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
    return FeatureExtractor(
        module,
        name="fad",
        image_size=IMAGE_SIZE,
        channels=channels,
        mode=mode,
        batch_size=PUBLISHED_BATCH_SIZE if published else None,
        device=device,
    )


def _running(layers: int) -> tuple[str, ...]:
    """Return the keys of the running statistics of batch norm."""
    kinds = ("running_mean", "running_var", "num_batches_tracked")
    return tuple(f"encoder.{layer}.1.{kind}" for layer in range(layers) for kind in kinds)


def load_published_statistics(path: Path | str, count: int | None = None) -> Moments:
    """Read reference statistics as the authors ship them: `.npz` with `mu` and `sigma`.

    Args:
        path: For example `mnist_test_64.npz`. They belong to mode `published` alone.
        count: Number of images behind them, where you know it (10,000 for the test sets).

    Returns:
        The moments; the file is read without running any code that it may carry.

    Raises:
        UserError: The file is absent or damaged, or does not hold such arrays.
    """
    path = Path(path)
    try:
        mu, sigma = (_real(array) for array in read_npz(path, ("mu", "sigma")))
    except (UserError, TypeError) as error:
        raise UserError(f"{path}: not an .npz with arrays mu and sigma ({error})") from error
    return Moments(count, mu, sigma)


def _real(array: NDArray[Any]) -> Tensor:
    if array.dtype.kind not in "fiu":
        raise TypeError(f"holds {array.dtype}")
    return torch.from_numpy(array).double()
