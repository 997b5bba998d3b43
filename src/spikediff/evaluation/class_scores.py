"""Scores of class probabilities: the Inception score, and agreement with the requested classes.

The Inception score is high if a classifier is confident about each image and predicts many classes:

    IS = exp( mean_x KL( p(y|x) || p(y) ) ),  p(y) = mean_x p(y|x)

It uses only generated images, so it cannot detect copies. It is meaningless for images outside the
classifier's classes, such as digits for an ImageNet classifier.

Reference:
    Salimans et al. 2016, "Improved techniques for training GANs", section 4.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from spikediff.errors import UserError

SUMS_TO_ONE = 1e-3  # tolerance for a row: half precision, summed over 1,000 classes


class InceptionScore(NamedTuple):
    """The mean over the parts, between 1 and K, and the standard deviation over them."""

    mean: float
    std: float


def inception_score(probabilities: Tensor, splits: int = 10) -> InceptionScore:
    """Return the Inception score of the class probabilities p(y|x) [N, K] of generated images.

    Args:
        probabilities: Floating point; rows sum to 1.
        splits: Number of consecutive parts over which the score is averaged. A part needs many
            images of every class, or the score is too low.

    Raises:
        UserError: The values are not probabilities, or there are fewer images than parts.

    Example:
        >>> inception_score(torch.eye(4), splits=1)
        InceptionScore(mean=4.0, std=0.0)
    """
    p = _checked(probabilities, splits)
    scores = torch.stack([_score(part) for part in p.tensor_split(splits)])  # [splits]
    return InceptionScore(float(scores.mean()), float(scores.std(correction=0)))


def _score(p: Tensor) -> Tensor:
    marginal = p.mean(dim=0)  # [K]
    divergence = torch.xlogy(p, p) - torch.xlogy(p, marginal)  # [n, K]; 0 log 0 = 0
    return divergence.sum(dim=1).mean().exp()


def _checked(probabilities: Tensor, splits: int) -> Tensor:
    """Return probabilities in float64, each row summing to 1."""
    if probabilities.ndim != 2 or not probabilities.is_floating_point():
        found = f"{probabilities.dtype} {list(probabilities.shape)}"
        raise UserError(f"inception_score: got {found}; pass probabilities [N, K]")
    if not 1 <= splits <= len(probabilities):
        raise UserError(
            f"inception_score: splits = {splits} of {len(probabilities)} images; "
            "pass 1 up to the number of images"
        )
    p = probabilities.detach().to("cpu", torch.float64)
    sums = p.sum(dim=1)
    if not bool(((sums - 1).abs() <= SUMS_TO_ONE).all() and (p >= 0).all()):  # NaN fails too
        raise UserError(
            "inception_score: rows are not probabilities (at least 0, sum 1); "
            "pass softmax(logits), not logits"
        )
    return p / sums[:, None]


@dataclass(frozen=True)
class ClassAgreement:
    """The share of images that a classifier assigns to the requested class."""

    rate: float  # over all images
    by_class: tuple[float | None, ...]  # for each class; None if none was requested
    count: int


def class_agreement(probabilities: Tensor, labels: Tensor) -> ClassAgreement:
    """Compare a classifier's predictions with the requested classes.

    Args:
        probabilities: Class probabilities or logits [N, K].
        labels: The requested classes, int64 [N].

    Raises:
        UserError: There are no images, or the number of labels differs.

    Example:
        >>> said = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
        >>> class_agreement(said, torch.tensor([0, 1, 1]))
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
