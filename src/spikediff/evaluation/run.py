"""From two sets of features to named numbers, as a protocol asks for them.

The result of an evaluation, as JSON knows it: everything that a number needs beside it.

It holds no time and no path, so that the same evaluation gives the same bytes.

An evaluation from beginning to end: images, features, distances, and the floor beside them.
"""

import statistics
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import Tensor

from spikediff.errors import UserError
from spikediff.evaluation.features import FeatureNetwork
from spikediff.evaluation.frechet import Moments, frechet_distance
from spikediff.evaluation.inception_score import inception_score
from spikediff.evaluation.kernel import kernel_distance
from spikediff.evaluation.neighbours import precision_recall
from spikediff.evaluation.plan import EvaluationPlan, EvaluationSettings, make_plan
from spikediff.evaluation.protocol import EvaluationProtocol, Measurement
from spikediff.evaluation.shards import Shards
from spikediff.evaluation.sources import ImageSource, SpooledImages, public_name
from spikediff.evaluation.statistics import FeatureSet, extract_features, read_statistics
from spikediff.files.reading import file_sha256

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


_PACKAGES = ("spikediff", "torch", "numpy", "scikit-learn", "pillow")
_DIGITS = 6  # features are float32: what follows depends on the number of threads


def make_report(
    plan: EvaluationPlan, repeats: Sequence[Scores], floor: Scores, notes: Sequence[str]
) -> dict[str, Any]:
    """Put numbers and circumstances together.

    Args:
        plan: What was done.
        repeats: The scores of every repeat, by `network/mode/metric`.
        floor: The scores of real images.
        notes: What came up while they were computed.

    Returns:
        Nested dictionaries, lists, strings and numbers.
    """
    protocol = plan.settings.protocol
    return {
        "protocol": protocol.content(),
        "source": plan.source.description,
        "seeds": _seeds(plan),
        "complete": plan.count >= plan.wanted,
        "counts": {
            "judged": plan.count,
            "wanted": plan.wanted,
            "repeats": plan.settings.repeats,
            "reference": len(plan.reference),
            "floor": plan.floor_count,
        },
        "dataset": public_name(plan.settings.dataset),
        "reference": _describe_reference(plan),
        "features": {part.key: _network(network) for part, network in plan.networks.items()},
        "metrics": {name: _spread([scores[name] for scores in repeats]) for name in repeats[0]},
        "floor": {name: _rounded(value) for name, value in floor.items()},
        "notes": [*plan.notes, *_count_notes(plan), *notes],
        "versions": {package: version(package) for package in _PACKAGES},
    }


def _seeds(plan: EvaluationPlan) -> dict[str, int] | None:
    """Return the first and the last seed; None where the images were there before."""
    first = plan.source.description.get("first_seed")
    if first is None:
        return None
    return {"first": first, "last": first + plan.count * plan.settings.repeats - 1}


def _describe_reference(plan: EvaluationPlan) -> dict[str, Any]:
    dataset, statistics_file = plan.reference.dataset, plan.settings.statistics
    return {
        "split": dataset.split,
        "origin": Path(dataset.origin).name,
        "sha256": plan.reference.pixels_sha256,
        "statistics": None
        if statistics_file is None
        else {
            "name": statistics_file.name,
            "sha256": file_sha256(statistics_file),
        },
    }


def _network(network: FeatureNetwork) -> dict[str, Any]:
    known = ("name", "mode", "fingerprint", "dimensions", "image_size", "channels")
    told = {name: getattr(network, name) for name in known}
    accuracy = getattr(network, "held_out_accuracy", None)  # of a classifier alone
    return told if accuracy is None else told | {"held_out_accuracy": accuracy}


def _spread(values: list[float]) -> dict[str, Any]:
    """Return values with their mean and standard deviation (ddof 1).

    Example:
        >>> _spread([1.0, 3.0])
        {'mean': 2.0, 'std': 1.41421, 'values': [1.0, 3.0]}
    """
    return {
        "mean": _rounded(statistics.fmean(values)),
        "std": _rounded(statistics.stdev(values)) if len(values) > 1 else None,
        "values": [_rounded(value) for value in values],
    }


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _count_notes(plan: EvaluationPlan) -> list[str]:
    """Say where numbers of images are not those of the protocol."""
    protocol, notes = plan.settings.protocol, []
    if plan.count < plan.wanted:
        notes.append(f"{plan.count} samples instead of {plan.wanted}: not comparable with others")
    if plan.floor_count < plan.count:
        notes.append(f"the floor has {plan.floor_count} images; the split holds no more")
    uses_kernel = any("kernel" in part.metrics for part in plan.networks)
    size = kernel_subset_size(protocol, plan.count, len(plan.reference))
    if uses_kernel and size < protocol.kernel_subset_size:
        notes.append(f"kernel: subsets of {size} instead of {protocol.kernel_subset_size} images")
    return notes


@dataclass(frozen=True, eq=False)
class _Reference:
    """What one network says of the reference.

    Attributes:
        features: Its features.
        moments: Their moments, or the published ones.
    """

    features: FeatureSet
    moments: Moments


@dataclass(frozen=True)
class _Found:
    """The scores under one network, of every repeat and of the floor."""

    repeats: tuple[Scores, ...]
    floor: Scores


def evaluate(
    source: ImageSource, settings: EvaluationSettings, processes: PartialState | None = None
) -> dict[str, Any] | None:
    """Measure images by a protocol.

    Several processes (`torchrun`, `accelerate launch`) share the images and their features by
    files; the distances are computed by the first alone, from the same numbers in the same order.

    Args:
        source: The images.
        settings: Protocol, data set, folders.
        processes: Who shares the work, and on which device; all that were launched by default.

    Returns:
        The result, ready for JSON, without times and paths: the same input gives the same result.
        None in all processes but the first.

    Raises:
        UserError: Too few images or samples, images that do not fit, weights that are not given.
    """
    processes = processes or PartialState()
    plan = make_plan(source, settings, processes)
    # Before the images are made: what is wrong with the reference shows at once.
    references = {part: _reference(plan, part, processes) for part in plan.networks}
    plan = replace(plan, source=_spooled(plan, processes))
    judged = {part: _judged(plan, part, processes) for part in plan.networks}
    floors = {part: _floor(plan, part, processes) for part in plan.networks}
    if not processes.is_main_process:
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        found = [
            _score(plan, part, judged[part], floors[part], references[part])
            for part in plan.networks
        ]
    notes = dict.fromkeys(str(warning.message) for warning in caught)
    repeats = [_joined(each.repeats[i] for each in found) for i in range(settings.repeats)]
    return make_report(plan, repeats, _joined(each.floor for each in found), list(notes))


def _spooled(plan: EvaluationPlan, processes: PartialState) -> ImageSource:
    """Return the source itself if its images are on the disk already, else put them there."""
    source, settings = plan.source, plan.settings
    if source.available is not None:
        return source

    def make(first: int, count: int) -> dict[str, Tensor]:
        return {"images": source.images(first, count)}

    name = f"images-{source.fingerprint[:16]}-{settings.spool_size}"
    total = plan.count * settings.repeats
    size = settings.spool_size
    shards = Shards(settings.work_dir / name, source.fingerprint, total, size, ("images",))
    shards.fill(make, processes, "images")
    return SpooledImages(source, shards)


def _reference(plan: EvaluationPlan, part: Measurement, processes: PartialState) -> _Reference:
    """Compute a network's features of the reference, and check published moments against them."""
    settings = plan.settings
    label = f"{public_name(settings.dataset)}-reference"
    rows = range(len(plan.reference))
    features = _features(plan, part, plan.reference, rows, settings.cache_dir, label, processes)
    with processes.main_process_first():  # the others read what it has computed
        moments = features.moments()
    if settings.statistics is not None and part.mode == "published":
        moments = read_statistics(settings.statistics, moments)
    return _Reference(features, moments)


def _judged(
    plan: EvaluationPlan, part: Measurement, processes: PartialState
) -> tuple[FeatureSet, ...]:
    """Compute a network's features of the images of every repeat."""
    folder, n = plan.settings.work_dir, plan.count
    return tuple(
        _features(plan, part, plan.source, range(i * n, (i + 1) * n), folder, "judged", processes)
        for i in range(plan.settings.repeats)
    )


def _floor(plan: EvaluationPlan, part: Measurement, processes: PartialState) -> FeatureSet:
    """Compute a network's features of the floor's images."""
    folder, label = plan.settings.cache_dir, f"{public_name(plan.settings.dataset)}-floor"
    return _features(plan, part, plan.floor, range(plan.floor_count), folder, label, processes)


def _features(
    plan: EvaluationPlan,
    part: Measurement,
    source: ImageSource,
    rows: range,
    folder: Path,
    label: str,
    processes: PartialState,
) -> FeatureSet:
    """Compute a network's features of images of a source."""
    network, resize_filter = plan.networks[part], plan.settings.protocol.resize_filter
    return extract_features(
        network, source, rows.start, len(rows), resize_filter, folder, processes, label
    )


def _score(
    plan: EvaluationPlan,
    part: Measurement,
    judged: tuple[FeatureSet, ...],
    floor: FeatureSet,
    reference: _Reference,
) -> _Found:
    """Compute one network's scores."""

    def scores(features: FeatureSet) -> Scores:
        found = compute_scores(
            plan.settings.protocol, part, features, reference.features, reference.moments
        )
        return {f"{part.key}/{name}": value for name, value in found.items()}

    return _Found(tuple(map(scores, judged)), scores(floor))


def _joined(parts: Iterable[Scores]) -> Scores:
    """Return the scores of all networks."""
    return {name: value for part in parts for name, value in part.items()}
