"""Whether generated images are recognised by a classifier of real ones."""

from dataclasses import dataclass

import torch
from torch import Tensor

from spikediff.errors import UserError


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
