"""Whether images that were asked to be of a class are of it, by a classifier's word."""

from dataclasses import dataclass

from torch import Tensor

from spikediff.errors import UserError


@dataclass(frozen=True)
class ClassAgreement:
    """How often a classifier names the class that was asked for.

    Attributes:
        rate: Share of all images, between 0 and 1.
        by_class: Share of the images of every class; None where none was asked for.
        count: How many images there were.
    """

    rate: float
    by_class: tuple[float | None, ...]
    count: int


def class_agreement(probabilities: Tensor, labels: Tensor) -> ClassAgreement:
    """Compare a classifier's first choice with the class that was asked for.

    Args:
        probabilities: What the classifier says of every image [N, K]; logits will do.
        labels: The classes that were asked for, int64 [N], 0 to K - 1.

    Raises:
        UserError: There are no images, or not one label for each.

    Example:
        >>> import torch
        >>> says = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
        >>> class_agreement(says, torch.tensor([0, 1, 1]))
        ClassAgreement(rate=0.6666666666666666, by_class=(1.0, 0.5), count=3)
    """
    if not len(labels) or labels.shape != probabilities.shape[:1]:
        raise UserError(
            f"class_agreement: {tuple(probabilities.shape)} probabilities for {len(labels)} labels"
        )
    right = (probabilities.argmax(1) == labels).double()
    shares = [right[labels == k] for k in range(probabilities.shape[1])]
    by_class = tuple(share.mean().item() if len(share) else None for share in shares)
    return ClassAgreement(right.mean().item(), by_class, len(labels))
