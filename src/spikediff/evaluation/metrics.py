"""The table of metrics. A metric compares two sets of features and returns named numbers.

To add a metric, write a file and add a row to `METRICS`. Protocols and `spikediff guide` read it.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spikediff.errors import UserError
from spikediff.evaluation.class_scores import inception_score
from spikediff.evaluation.feature_cache import FeatureSet
from spikediff.evaluation.frechet import frechet_distance
from spikediff.evaluation.kernel import kernel_distance
from spikediff.evaluation.neighbours import precision_recall

if TYPE_CHECKING:
    from spikediff.evaluation.protocol import EvaluationProtocol

LOWER, HIGHER = True, False


@dataclass(frozen=True)
class Metric:
    """A row of the table."""

    # Called with `(fake, real, protocol)`; returns numbers by name, spreads as `..._std`.
    compute: Callable[[FeatureSet, FeatureSet, "EvaluationProtocol"], dict[str, float]]
    lower_is_better: Mapping[str, bool]  # for every number that `spikediff guide` can optimise
    fewest: Callable[["EvaluationProtocol"], int] = lambda _protocol: 2  # smallest number of images
    needs_classes: bool = False  # whether the feature network must give class probabilities


def _frechet(fake: FeatureSet, real: FeatureSet, _: object) -> dict[str, float]:
    return {"frechet": frechet_distance(fake.moments(), real.moments())}


def kernel_subset_size(protocol: "EvaluationProtocol", fake: int, real: int) -> int:
    """Return the subset size for the kernel distance: the protocol's, or half of all images.

    Subsets of all images would be identical, and their spread only rounding.
    """
    return min(protocol.kernel_subset_size, max(min(fake, real) // 2, 2))


def _kernel(fake: FeatureSet, real: FeatureSet, protocol: "EvaluationProtocol") -> dict[str, float]:
    size = kernel_subset_size(protocol, len(fake), len(real))
    a, b = fake.features(), real.features()
    mean, std = kernel_distance(a, b, subsets=protocol.kernel_subsets, subset_size=size)
    return {"kernel": mean, "kernel_std": std}


def _inception_score(
    fake: FeatureSet, _real: FeatureSet, protocol: "EvaluationProtocol"
) -> dict[str, float]:
    probabilities = fake.probabilities()
    if probabilities is None:
        raise UserError("inception_score: this feature network gives no class probabilities")
    mean, std = inception_score(probabilities, splits=protocol.inception_splits)
    most = len(probabilities) / protocol.inception_splits
    if mean > most / 2:
        warnings.warn(
            f"inception_score: {len(probabilities)} images in {protocol.inception_splits} parts "
            f"give at most {most:.3g}; take more images",
            stacklevel=2,
        )
    return {"inception_score": mean, "inception_score_std": std}


def _neighbours(
    fake: FeatureSet, real: FeatureSet, protocol: "EvaluationProtocol"
) -> dict[str, float]:
    found = precision_recall(real.features(), fake.features(), k=protocol.neighbours)
    return found._asdict()


METRICS: dict[str, Metric] = {
    "frechet": Metric(_frechet, {"frechet": LOWER}),
    "kernel": Metric(_kernel, {"kernel": LOWER}),
    "inception_score": Metric(
        _inception_score,
        {"inception_score": HIGHER},
        fewest=lambda protocol: protocol.inception_splits,
        needs_classes=True,
    ),
    "neighbours": Metric(
        _neighbours,
        dict.fromkeys(("precision", "recall", "density", "coverage"), HIGHER),
        fewest=lambda protocol: protocol.neighbours + 1,
    ),
}
