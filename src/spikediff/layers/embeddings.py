"""Diffusion timestep and class as vectors, which blocks add to their currents at every step."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from spikediff.errors import UserError, shown
from spikediff.layers.batch_invariant import elementwise
from spikediff.layers.sizes import check_classes


def sinusoidal_embedding(timestep: Tensor, channels: int, reach_slowest: bool = False) -> Tensor:
    r"""Embed timesteps [B], integral or not, in sines and cosines, interleaved: [B, C], float32.

    $e_{2i} = \sin(\omega_i t)$, $e_{2i+1} = \cos(\omega_i t)$,
    $\omega_i = 10000^{-i/n}$ for $0 \le i < C/2$, with $n = C/2$ (SDDPM, and Vaswani et al.). With
    `reach_slowest`, $n = C/2 - 1$, so that the last rate is 1/10000 itself (FSDDIM).

    Example:
        >>> sinusoidal_embedding(torch.tensor([0]), 4).tolist()
        [[0.0, 1.0, 0.0, 1.0]]

    Reference: Vaswani et al., "Attention is all you need", 2017.
    """
    half = channels // 2
    places = torch.arange(half, device=timestep.device)
    intervals = max(half - 1, 1) if reach_slowest else half
    rates = torch.exp(places * (-math.log(10000.0) / intervals))  # [C/2]
    angles = timestep.float()[:, None] * rates  # [B, C/2]
    pairs = torch.stack([angles.sin(), angles.cos()], dim=-1)  # [B, C/2, 2]
    return pairs.flatten(1)


def rows_of(table: Tensor, timestep: Tensor, reach_slowest: bool = False) -> Tensor:
    """Return the rows of a table of `sinusoidal_embedding` [N, C]; fractional ones are computed.

    Whole timesteps on the CPU that have no row are refused.
    """
    if not timestep.is_floating_point():
        if timestep.device.type == "cpu" and not torch.compiler.is_compiling():
            wrong = (timestep < 0) | (timestep >= len(table))
            for value in timestep[wrong][:1].tolist():
                raise UserError(f"timestep {value}: must be an integer from 0 to {len(table) - 1}")
        return table[timestep]
    return sinusoidal_embedding(timestep, table.shape[1], reach_slowest).to(table.dtype)


class TimestepEmbedding(nn.Module):
    """Sinusoidal table, then `Linear - Swish - Linear`, in real numbers.

    The table is a frozen parameter, as in the authors' network.

    Shape: [B] -> [B, embedding_channels].
    """

    def __init__(self, channels: int, embedding_channels: int, num_train_timesteps: int) -> None:
        super().__init__()
        table = sinusoidal_embedding(torch.arange(num_train_timesteps), channels)
        self.table = nn.Parameter(table, requires_grad=False)
        self.linear1 = nn.Linear(channels, embedding_channels)
        self.linear2 = nn.Linear(embedding_channels, embedding_channels)

    def forward(self, timestep: Tensor) -> Tensor:
        """Return the embedding of timesteps [B]; fractional ones (as in Karras schedules) too."""
        hidden = elementwise(nn.functional.silu, self.linear1(rows_of(self.table, timestep)))
        out: Tensor = self.linear2(hidden)
        return out


class ClassEmbedding(nn.Module):
    """A learned vector per class, and a last one for "no class".

    Training randomly replaces labels by the last vector, so that one network learns both
    the images of a class and all images, as classifier-free guidance requires. A chip stores
    the chosen vector as biases, like the timestep's.

    Shape: labels [B], 0 to K (K is "no class"), or None -> [B, embedding_channels] or
    [1, embedding_channels].

    Reference: Ho and Salimans, "Classifier-free diffusion guidance", 2022.
    """

    def __init__(self, num_classes: int, embedding_channels: int) -> None:
        super().__init__()
        self.no_class = num_classes
        self.table = nn.Embedding(num_classes + 1, embedding_channels)

    def forward(self, labels: Tensor | None) -> Tensor:
        """Return the vectors of labels; that of "no class" without labels."""
        if labels is None and self.table.weight.device.type != "meta":
            return self.table.weight[-1:]
        if labels is None:  # an offloaded table is loaded during the lookup
            labels = torch.tensor([self.no_class])
        if not torch.compiler.is_compiling():
            self._check(labels)
        vectors: Tensor = self.table(labels)
        return vectors

    def _check(self, labels: Tensor) -> None:
        if labels.is_floating_point():
            raise UserError(f"class labels must be whole numbers, got {labels.dtype}")
        for label in labels[(labels < 0) | (labels > self.no_class)][:1].tolist():
            raise UserError(
                f"class label {label}: the model knows 0 to {self.no_class - 1}, and "
                f"{self.no_class} for no class"
            )


def class_embedding(num_classes: int, embedding_channels: int) -> ClassEmbedding | None:
    """Return an embedding of classes, or None if `num_classes` is 0."""
    check_classes("ClassEmbedding", num_classes)
    return ClassEmbedding(num_classes, embedding_channels) if num_classes else None


def embed_classes(
    embedding: ClassEmbedding | None, labels: Any, images: int, device: torch.device
) -> Tensor | float:
    """Return the addend of the timestep embedding: [B or 1, E], or 0 without classes."""
    if embedding is None:
        if labels is not None:
            raise UserError(
                "class_labels: the model was trained without classes; leave them out, or train "
                "with model.num_classes"
            )
        return 0.0
    if labels is not None:
        labels = one_or_each("class_labels", labels, images, device)
    classes: Tensor = embedding(labels)
    return classes


def one_or_each(what: str, values: Any, images: int, device: torch.device) -> Tensor:
    """Return timesteps or classes as a tensor [B or 1]; refuse another number of them."""
    try:
        given = torch.as_tensor(values, device=device).reshape(-1)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"{what} = {shown(values)} must be a number, or one per image") from None
    # A comparison would fix the batch size of an exported program.
    if not torch.compiler.is_compiling() and len(given) not in (1, images):
        raise UserError(f"{what}: {len(given)} for {images} images; give one for each or for all")
    return given
