"""An evaluation from beginning to end: images, features, distances, and the floor beside them."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import Tensor

from spikediff.evaluation.frechet import Moments
from spikediff.evaluation.plan import EvaluationPlan, EvaluationSettings, make_plan
from spikediff.evaluation.protocol import Measurement
from spikediff.evaluation.report import make_report
from spikediff.evaluation.scores import Scores, compute_scores
from spikediff.evaluation.shards import Shards
from spikediff.evaluation.sources import ImageSource, SpooledImages, public_name
from spikediff.evaluation.statistics import FeatureSet, extract_features, read_statistics


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
