"""Feature networks: fixed networks that turn images into feature vectors for distances."""

import copy
import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spikediff.data import Resize, to_model_range
from spikediff.data.resize import resize_pixels
from spikediff.errors import UserError
from spikediff.files.tensors import state_digest

MODES = ("clean", "published")


class ChannelsReplicated(UserWarning):
    """Grey images were repeated over three channels for a network that expects colours."""


class Activations(NamedTuple):
    """Features [B, D] and class probabilities [B, K] or None, both float32."""

    features: Tensor
    probabilities: Tensor | None


@dataclass(frozen=True)
class Normalise:
    """Compute `(x / 255 - mean) / std` per channel, uint8 [B, C, H, W] -> float32."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """Return the normalised images."""
        mean, std = (
            torch.tensor(values, device=images.device).view(1, -1, 1, 1)
            for values in (self.mean, self.std)
        )
        return (images.float() / 255 - mean) / std


class FeatureNetwork:
    """A module in evaluation mode without gradients, with a fingerprint and checked inputs.

    Args:
        module: Takes normalised images [B, C, H, W]; returns features [B, D], or a pair of
            features and class logits [B, K]. It is copied.
        name: A name of `load_features`, or `module:NAME`.
        image_size: Side of the images in pixels.
        channels: 1 or 3. A network with 3 also accepts grey images, and warns once.
        normalise: Turns uint8 images into the module's input; maps to [-1, 1] by default.
        mode: `clean` (an image always has the same features) or `published` (as for the published
            numbers). Distances of different modes are not comparable.
        batch_size: Set it if features depend on the batch: images must then come in order, in
            batches of exactly this size, the last one smaller.
        resize_filter: Filter for resizing images to `image_size`; None takes the protocol's.
        held_out_accuracy: Accuracy of a classifier on held-out images, if known.
        device: Device of the network.

    Attributes:
        dimensions: D.
        has_classes: Whether there are class probabilities.
        fingerprint: SHA-256 of layout, weights and mode, but not of the module's code: the key of
            stored features.

    Raises:
        UserError: The module does not accept such images, or does not return such features.

    Example:
        >>> network = FeatureNetwork(nn.Flatten(), name="module:pixels", image_size=2, channels=1)
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
        normalise: Callable[[Tensor], Tensor] = to_model_range,
        mode: str = "clean",
        batch_size: int | None = None,
        resize_filter: str | None = None,
        held_out_accuracy: float | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.name = name
        self.mode = mode
        self.image_size = image_size
        self.channels = channels
        self.batch_size = batch_size
        self.resize_filter = resize_filter
        self.held_out_accuracy = held_out_accuracy
        self._module = copy.deepcopy(module).to(device).eval().requires_grad_(False)
        self._normalise = normalise
        self._device = torch.device(device)
        self._warned = False
        probe = self._probe()
        self.dimensions = probe.features.shape[1]
        self.has_classes = probe.probabilities is not None
        self.fingerprint = self._hash()

    def __call__(self, images: Tensor) -> Activations:
        """Return the activations of images, uint8 [B, C, H, W], H = W = `image_size`."""
        self._check(images)
        if images.shape[1] < self.channels:
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"{self.name}: grey images are repeated over {self.channels} channels",
                    ChannelsReplicated,
                    stacklevel=2,
                )
            images = images.expand(-1, self.channels, -1, -1)
        activations = self._run(images)
        if not activations.features.isfinite().all():
            raise UserError(
                f"{self.name}: features contain NaN or infinity; the weights are "
                "damaged or of another network"
            )
        return activations

    def _run(self, images: Tensor) -> Activations:
        with torch.no_grad():
            out = self._module(self._normalise(images.to(self._device)))
        features, logits = out if isinstance(out, tuple) else (out, None)
        if not isinstance(features, Tensor) or features.ndim != 2:
            found = list(features.shape) if isinstance(features, Tensor) else type(features)
            raise UserError(f"{self.name}: the module returned {found}; features must be [B, D]")
        probabilities = None if logits is None else logits.float().softmax(dim=1)
        return Activations(features.float(), probabilities)

    def _check(self, images: Tensor) -> None:
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

    def _probe(self) -> Activations:
        black = torch.zeros(2, self.channels, self.image_size, self.image_size, dtype=torch.uint8)
        try:
            return self._run(black)
        except UserError:
            raise
        except Exception as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(
                f"{self.name}: the module does not take images {list(black.shape)} ({reason})"
            ) from error

    def _hash(self) -> str:
        normalise = getattr(self._normalise, "__qualname__", repr(self._normalise))
        facts = (self.name, self.mode, self.image_size, self.channels, self.batch_size, normalise)
        digest = hashlib.sha256(repr((*facts, str(self._module))).encode())
        digest.update(state_digest(self._module.state_dict()).encode())
        return digest.hexdigest()


def extract(network: FeatureNetwork, images: Tensor, batch_size: int = 256) -> Activations:
    """Return the activations of images, uint8 [N, C, H, W], batch by batch, in order, on the CPU.

    The `batch_size` of the network, if set, takes precedence.
    """
    parts = [network(part) for part in torch.split(images, network.batch_size or batch_size)]
    features = torch.cat([part.features.cpu() for part in parts])
    known = [part.probabilities.cpu() for part in parts if part.probabilities is not None]
    return Activations(features, torch.cat(known) if known else None)


def prepare(images: Tensor, image_size: int, channels: int, resize_filter: str | None) -> Tensor:
    """Adapt images, uint8 [N, C, H, W], to a network: resize with PIL, set the channels (1 or 3).

    Refuse images that are not square, images of another size if there is no `resize_filter` (a key
    of `RESIZE_FILTERS`), and colour images for a grey network.
    """
    _, C, H, W = images.shape
    if H != W:
        raise UserError(f"images are {W}x{H}; features are taken of squares, crop them first")
    if image_size != H and resize_filter is None:
        raise UserError(
            f"images are {H}x{W} but the feature network takes {image_size}x{image_size}, and the "
            "protocol names no resize_filter"
        )
    if C == 3 and channels == 1:
        images = _grey(images)
    pixels = images.permute(0, 2, 3, 1)  # [N, H, W, C]
    pixels = pixels[..., 0] if pixels.shape[3] == 1 else pixels
    resize = Resize(image_size, channels, resize_filter=resize_filter or "bilinear")
    return resize_pixels(pixels.contiguous().numpy(), resize)


def preparation_notes(
    images: Tensor, image_size: int, channels: int, resize_filter: str | None
) -> list[str]:
    """Describe what `prepare` does to images [N, C, H, W]."""
    C, side = images.shape[1], images.shape[2]
    notes = []
    if side != image_size:
        notes.append(f"resized from {side} to {image_size} pixels (PIL, {resize_filter})")
    if channels > C:
        notes.append("the grey channel is repeated three times")
    if channels < C:
        notes.append("stored as RGB without colours; one channel is taken")
    return notes


def _grey(images: Tensor) -> Tensor:
    first = images[:, :1]
    if not torch.equal(first.expand_as(images), images):
        raise UserError(
            "images have colours but the feature network is for grey ones; convert them"
        )
    return first
