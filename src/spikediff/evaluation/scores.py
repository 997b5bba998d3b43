"""From two sets of features to named numbers, as a protocol asks for them."""

from collections.abc import Callable

from torch import Tensor

from spikediff.errors import UserError
from spikediff.evaluation.frechet import Moments, frechet_distance
from spikediff.evaluation.inception_score import inception_score
from spikediff.evaluation.kernel import kernel_distance
from spikediff.evaluation.neighbours import precision_recall
from spikediff.evaluation.protocol import EvaluationProtocol, Measurement
from spikediff.evaluation.statistics import FeatureSet

Scores = dict[str, float]


def compute_scores(
    protocol: EvaluationProtocol,
    measurement: Measurement,
    fake: FeatureSet,
    real: FeatureSet,
    reference: Moments,
) -> Scores:
    """Compute a measurement's metrics.

    Args:
        protocol: Splits, subsets and neighbours of the metrics.
        measurement: Which metrics.
        fake: Features of the images to be judged.
        real: Features of the reference.
        reference: Moments of the reference, for the Frechet distance.

    Returns:
        Values by name; a metric with a spread has a second one, `..._std`.

    Raises:
        UserError: The features are NaN, or the network gives no probabilities.
    """
    scores: Scores = {}
    for metric in measurement.metrics:
        if metric == "frechet":
            scores["frechet"] = frechet_distance(fake.moments(), reference)
        else:
            scores |= _WITH_FEATURES[metric](protocol, fake, real)
    return scores


def kernel_subset_size(protocol: EvaluationProtocol, fake: int, real: int) -> int:
    """Return the images in a subset of the kernel distance: the protocol's, or half of all.

    A subset of all images would be the same every time, and its spread rounding.

    Args:
        protocol: The protocol.
        fake: Number of judged images.
        real: Number of reference images.
    """
    return min(protocol.kernel_subset_size, max(min(fake, real) // 2, 2))


def _kernel(protocol: EvaluationProtocol, fake: FeatureSet, real: FeatureSet) -> Scores:
    size = kernel_subset_size(protocol, fake.shards.total, real.shards.total)
    a, b = fake.features(), real.features()
    distance = kernel_distance(a, b, subsets=protocol.kernel_subsets, subset_size=size)
    return {"kernel": distance.mean, "kernel_std": distance.std}


def _inception_score(protocol: EvaluationProtocol, fake: FeatureSet, _real: FeatureSet) -> Scores:
    probabilities: Tensor | None = fake.probabilities()
    if probabilities is None:
        raise UserError("inception_score: this feature network gives no class probabilities")
    score = inception_score(probabilities, splits=protocol.inception_splits)
    return {"inception_score": score.mean, "inception_score_std": score.std}


def _neighbours(protocol: EvaluationProtocol, fake: FeatureSet, real: FeatureSet) -> Scores:
    return vars(precision_recall(real.features(), fake.features(), k=protocol.neighbours)).copy()


_WITH_FEATURES: dict[str, Callable[[EvaluationProtocol, FeatureSet, FeatureSet], Scores]] = {
    "kernel": _kernel,
    "inception_score": _inception_score,
    "neighbours": _neighbours,
}
