"""The class of an image, as a vector that joins the timestep's."""

import torch
from torch import Tensor, nn

from spikediff.errors import UserError


class ClassEmbedding(nn.Module):
    """A learnt vector per class, and a last one for "no class".

    Training drops labels now and then and shows the last vector instead, so that one network knows
    both the images of a class and all images: what classifier-free guidance asks for. A chip keeps
    the chosen vector as biases, like the timestep's.

    Args:
        num_classes: K, at least 1.
        embedding_channels: Length of a vector.

    Shape: labels [B], 0 to K (K is "no class"), or None -> [B, embedding_channels] or
    [1, embedding_channels].

    Example:
        >>> embedding = ClassEmbedding(10, 16)
        >>> embedding(torch.tensor([3, 7])).shape, embedding(None).shape
        (torch.Size([2, 16]), torch.Size([1, 16]))
        >>> embedding(torch.tensor([11]))
        Traceback (most recent call last):
        ...
        spikediff.errors.UserError: class label 11: the model knows 0 to 9, and 10 for no class

    Reference: Ho and Salimans, "Classifier-free diffusion guidance", 2022.
    """

    def __init__(self, num_classes: int, embedding_channels: int) -> None:
        super().__init__()
        self.no_class = num_classes
        self.table = nn.Embedding(num_classes + 1, embedding_channels)

    def forward(self, labels: Tensor | None) -> Tensor:
        """Return the vectors of labels; that of "no class" where there are none."""
        if labels is None and self.table.weight.device.type != "meta":
            return self.table.weight[-1:]
        if labels is None:  # an offloaded table is there while it looks up
            labels = torch.tensor([self.no_class])
        labels = labels.reshape(-1)
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
    """Return an embedding of classes, or None where `num_classes` is 0.

    Raises:
        UserError: It is negative.
    """
    if num_classes < 0:
        raise UserError(f"num_classes={num_classes} must not be negative")
    return ClassEmbedding(num_classes, embedding_channels) if num_classes else None


def embed_classes(embedding: ClassEmbedding | None, labels: Tensor | None) -> Tensor | float:
    """Return what joins the timestep embedding: [B or 1, E], or 0 without an embedding of classes.

    Raises:
        UserError: There are labels, but the network was trained without; or a label is unknown.
    """
    if embedding is None:
        if labels is not None:
            raise UserError(
                "class_labels: the model was trained without classes; leave them out, or train "
                "with model.num_classes"
            )
        return 0.0
    classes: Tensor = embedding(labels)
    return classes
