"""Whether images that were asked to be of a class are of it, by a classifier's word.

Whether generated images are recognised by a classifier of real ones.
"""

from dataclasses import dataclass

import torch
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


@dataclass(frozen=True)
class Recognised:
    """What a classifier says of a set of images.

    Attributes:
        rate: Share of images on which it is at least as confident as asked for.
        counts: Images given to every class, in the order of the labels.
    """

    rate: float
    counts: tuple[int, ...]

    @property
    def every_class(self) -> bool:
        """Whether no class is missing."""
        return min(self.counts) > 0


class ImageJudge:
    """A multinomial logistic regression on the pixels of real images.

    It is linear in the pixels and trained on real images alone.

    Args:
        images: Real training images [N, C, H, W] in [-1, 1].
        labels: Their classes, int64 [N], 0 to K - 1.

    Raises:
        UserError: The images have no labels.

    Example:
        >>> images = torch.tensor([-1.0, -0.9, 0.9, 1.0]).view(4, 1, 1, 1)
        >>> judge = ImageJudge(images, torch.tensor([0, 0, 1, 1]))
        >>> judge.recognise(images, confidence=0.6).counts
        (2, 2)
    """

    def __init__(self, images: Tensor, labels: Tensor | None) -> None:
        if labels is None:
            raise UserError("ImageJudge: the images have no labels to learn from")
        from sklearn.linear_model import LogisticRegression

        self.classifier = LogisticRegression(max_iter=5000)
        self.classifier.fit(images.flatten(1).numpy(), labels.numpy())

    def probabilities(self, images: Tensor) -> Tensor:
        """Return the class probabilities [N, K] of images [N, C, H, W] in [-1, 1]."""
        return torch.from_numpy(self.classifier.predict_proba(images.flatten(1).numpy()))

    def recognise(self, images: Tensor, confidence: float = 0.7) -> Recognised:
        """Return how many images are recognised, and as what.

        Args:
            images: Images [N, C, H, W] in [-1, 1].
            confidence: The probability that the best class must reach.
        """
        best = self.probabilities(images).max(dim=1)
        counts = torch.bincount(best.indices, minlength=len(self.classifier.classes_))
        rate = (best.values >= confidence).float().mean().item()
        return Recognised(rate, tuple(counts.tolist()))
