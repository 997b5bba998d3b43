"""What a feature network promises to those who measure distances with it.

The one implementation of the contract: checks around a module that is never changed.

Any module as a feature network.
"""

import copy
import hashlib
import warnings
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from spikediff.data import to_model_range
from spikediff.errors import UserError
from spikediff.files.tensors import state_digest

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


Normalise = Callable[[Tensor], Tensor]


class FeatureExtractor:
    """A feature network made of a module, in evaluation mode and without gradients.

    Args:
        module: Takes normalised images [B, C, H, W]; returns features [B, D], or a pair of
            features and class logits [B, K]. A copy is kept: later training changes nothing here.
        name: See `FeatureNetwork`, as for the arguments below.
        image_size: Side of the images in pixels.
        channels: 1 or 3.
        normalise: Turns uint8 images into what the module expects; to [-1, 1] by default.
        mode: `clean` or `published`.
        batch_size: Not None where features depend on the batch.
        held_out_accuracy: Of a classifier, where it is known; it stands beside its distances.
        device: Where the network runs.

    Raises:
        UserError: The module does not take such images, or does not return such features.

    Example:
        >>> network = FeatureExtractor(nn.Flatten(), name="module:pixels", image_size=2, channels=1)
        >>> network.dimensions
        4
        >>> network(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)).features
        tensor([[1., 1., 1., 1.]])
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        name: str,
        image_size: int,
        channels: int,
        normalise: Normalise = to_model_range,
        mode: str = "clean",
        batch_size: int | None = None,
        held_out_accuracy: float | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.name = name
        self.mode = mode
        self.image_size = image_size
        self.channels = channels
        self.batch_size = batch_size
        self.held_out_accuracy = held_out_accuracy
        self._module = copy.deepcopy(module).to(device).eval().requires_grad_(False)
        self._normalise = normalise
        self._device = torch.device(device)
        self._warned = False
        self.dimensions = self._probe()
        self.fingerprint = self._hash()

    def __call__(self, images: Tensor) -> Activations:
        """Return the activations of uint8 images [B, C, H, W]; see `FeatureNetwork`."""
        self._check(images)
        if images.shape[1] < self.channels:
            images = self._replicated(images)
        activations = self._run(images)
        if not activations.features.isfinite().all():
            raise UserError(
                f"{self.name}: features hold NaN or infinity; the weights are damaged or foreign"
            )
        return activations

    def _run(self, images: Tensor) -> Activations:
        """Run the module on images of the right size and channels."""
        with torch.no_grad():
            out = self._module(self._normalise(images.to(self._device)))
        features, logits = out if isinstance(out, tuple) else (out, None)
        if not isinstance(features, Tensor) or features.ndim != 2:
            found = list(features.shape) if isinstance(features, Tensor) else type(features)
            raise UserError(f"{self.name}: the module returned {found}; features must be [B, D]")
        probabilities = None if logits is None else logits.float().softmax(dim=1)
        return Activations(features.float(), probabilities)

    def _check(self, images: Tensor) -> None:
        """Refuse images that the network was not made for."""
        C, side = self.channels, self.image_size
        wanted = f"uint8 [B, {C}, {side}, {side}]"
        found = f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}"
        fits = images.ndim == 4 and images.shape[2:] == (side, side) and len(images) > 0
        if not fits or images.shape[1] not in (1, C) or images.dtype != torch.uint8:
            raise UserError(f"{self.name}: expected {wanted}, got {found}; resize or convert first")
        if self.batch_size is not None and len(images) > self.batch_size:
            raise UserError(
                f"{self.name}: features depend on the batch in mode {self.mode!r}; "
                f"pass {self.batch_size} images at a time, not {len(images)}"
            )

    def _replicated(self, images: Tensor) -> Tensor:
        """Repeat grey images [B, 1, H, W] over the channels, and say so once."""
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.name}: grey images are repeated over {self.channels} channels",
                ChannelsReplicated,
                stacklevel=3,
            )
        return images.expand(-1, self.channels, -1, -1)

    def _probe(self) -> int:
        """Run two black images and return the length of their features."""
        black = torch.zeros(2, self.channels, self.image_size, self.image_size, dtype=torch.uint8)
        try:
            return self._run(black).features.shape[1]
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{self.name}: the module does not take images {list(black.shape)} ({reason})"
            ) from error

    def _hash(self) -> str:
        """Return SHA-256 over everything that a feature depends on."""
        normalise = getattr(self._normalise, "__qualname__", repr(self._normalise))
        facts = (self.name, self.mode, self.image_size, self.channels, self.batch_size, normalise)
        digest = hashlib.sha256(repr((*facts, str(self._module))).encode())
        digest.update(state_digest(self._module.state_dict()).encode())
        return digest.hexdigest()


def extract(network: FeatureNetwork, images: Tensor, batch_size: int = 256) -> Activations:
    """Return the activations of a whole set of images, batch by batch, in order.

    Args:
        network: The feature network; where its features depend on the batch, its own batch size
            is used.
        images: uint8 [N, C, H, W].
        batch_size: Images at a time otherwise.

    Returns:
        Features [N, D] and, where there is a classifier, probabilities [N, K], on the CPU.

    Raises:
        UserError: As the network's.

    Example:
        >>> network = FeatureExtractor(nn.Flatten(), name="module:pixels", image_size=2, channels=1)
        >>> extract(network, torch.zeros(5, 1, 2, 2, dtype=torch.uint8), batch_size=2)[0].shape
        torch.Size([5, 4])
    """
    parts = [network(part) for part in torch.split(images, network.batch_size or batch_size)]
    features = torch.cat([part.features.cpu() for part in parts])
    told = [part.probabilities.cpu() for part in parts if part.probabilities is not None]
    return Activations(features, torch.cat(told) if told else None)


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
