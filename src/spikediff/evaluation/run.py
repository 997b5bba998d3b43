"""Run an evaluation: compute features and metrics, with the floor for comparison.

The result contains no times or paths, so repeating an evaluation gives the same bytes.
"""

import statistics
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate import PartialState

from spikediff.evaluation.feature_cache import FeatureSet, features, read_statistics
from spikediff.evaluation.features.network import FeatureNetwork
from spikediff.evaluation.metrics import METRICS, kernel_subset_size
from spikediff.evaluation.plan import EvaluationPlan, EvaluationSettings, make_plan
from spikediff.evaluation.protocol import EvaluationProtocol, Measurement
from spikediff.evaluation.shards import Shards
from spikediff.evaluation.sources import ImageSource, from_shards, public_name
from spikediff.files.reading import file_sha256
from spikediff.tables import rounded

_PACKAGES = ("spikediff", "torch", "numpy", "scikit-learn", "pillow")


def compute_scores(
    protocol: EvaluationProtocol, measurement: Measurement, fake: FeatureSet, real: FeatureSet
) -> dict[str, float]:
    """Return a measurement's numbers by name, for the evaluated images and the reference."""
    scores: dict[str, float] = {}
    for metric in measurement.metrics:
        scores |= METRICS[metric].compute(fake, real, protocol)
    return scores


def evaluate(
    source: ImageSource, settings: EvaluationSettings, processes: PartialState | None = None
) -> dict[str, Any] | None:
    """Measure images by a protocol.

    Several processes (`torchrun`, `accelerate launch`) share the images and their features through
    files. Only the main process computes the metrics, from the same numbers in the same order.

    Returns:
        The result, ready for JSON; None in all processes but the main one.

    Raises:
        UserError: There are too few images or samples, images do not fit, or weights are missing.
    """
    processes = processes or PartialState()
    plan = make_plan(source, settings, processes)
    # Before images are generated, so that a wrong reference fails at once.
    references = {part: _reference(plan, part, processes) for part in plan.networks}
    images, n = _on_disk(plan, processes), plan.count
    parts = [range(i * n, (i + 1) * n) for i in range(settings.repeats)]
    judged = {
        part: [_features(plan, part, images, rows, "judged", processes) for rows in parts]
        for part in plan.networks
    }
    floors = {
        part: _features(plan, part, plan.floor, range(plan.floor_count), "floor", processes)
        for part in plan.networks
    }
    if not processes.is_main_process:
        return None
    repeats: list[dict[str, float]] = [{} for _ in parts]
    floor: dict[str, float] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        for part, reference in references.items():
            for scores, found in zip([*repeats, floor], [*judged[part], floors[part]], strict=True):
                numbers = compute_scores(settings.protocol, part, found, reference)
                scores |= {f"{part.key}/{name}": value for name, value in numbers.items()}
    notes = dict.fromkeys(str(warning.message) for warning in caught)
    return _result(plan, repeats, floor, list(notes))


def _features(
    plan: EvaluationPlan,
    part: Measurement,
    images: ImageSource,
    rows: range,
    label: str,
    processes: PartialState,
) -> FeatureSet:
    """Compute a network's features; the cache stores those of real images."""
    settings, judged = plan.settings, label == "judged"
    return features(
        images,
        rows,
        plan.networks[part],
        settings.work_dir if judged else settings.cache_dir,
        label if judged else f"{public_name(settings.dataset)}-{label}",
        resize_filter=settings.protocol.resize_filter,
        processes=processes,
    )


def _reference(plan: EvaluationPlan, part: Measurement, processes: PartialState) -> FeatureSet:
    """Compute a network's features of the reference, and check published moments against them."""
    rows, file = range(plan.reference.available or 0), plan.settings.statistics
    found = _features(plan, part, plan.reference, rows, "reference", processes)
    with processes.main_process_first():  # the others read its result
        moments = found.moments()
    if file is None or part.mode != "published":
        return found
    return replace(found, published=read_statistics(file, moments))


def _on_disk(plan: EvaluationPlan, processes: PartialState) -> ImageSource:
    """Return the source itself if its images exist; otherwise write its images to disk."""
    source, settings = plan.source, plan.settings
    if source.available is not None:
        return source
    size, total = settings.spool_size, plan.count * settings.repeats
    folder = settings.work_dir / f"images-{source.fingerprint[:16]}-{size}"
    shards = Shards(folder, source.fingerprint, total, size, ("images",))
    shards.fill(lambda first, count: {"images": source.take(first, count)}, processes, "images")
    return from_shards(source, shards)


def _result(
    plan: EvaluationPlan,
    repeats: Sequence[dict[str, float]],
    floor: dict[str, float],
    notes: list[str],
) -> dict[str, Any]:
    """Return scores by `network/mode/metric` with their settings and notes, ready for JSON."""
    settings = plan.settings
    first_seed = plan.source.description.get("first_seed")  # None if the images existed
    last_seed = (first_seed or 0) + plan.count * settings.repeats - 1
    return {
        "protocol": asdict(settings.protocol),
        "source": plan.source.description,
        "seeds": None if first_seed is None else {"first": first_seed, "last": last_seed},
        "complete": plan.count >= plan.wanted,
        "counts": {
            "judged": plan.count,
            "wanted": plan.wanted,
            "repeats": settings.repeats,
            "reference": plan.reference.available,
            "floor": plan.floor_count,
        },
        "dataset": public_name(settings.dataset),
        "reference": {
            "split": plan.reference.description["split"],
            "origin": Path(plan.reference_origin).name,
            "sha256": plan.reference.description["sha256"],
            "statistics": settings.statistics
            and {"name": settings.statistics.name, "sha256": file_sha256(settings.statistics)},
        },
        "features": {part.key: _describe(network) for part, network in plan.networks.items()},
        "metrics": {name: _spread([scores[name] for scores in repeats]) for name in repeats[0]},
        "floor": {name: rounded(value) for name, value in floor.items()},
        "notes": [*plan.notes, *_count_notes(plan), *notes],
        "versions": {package: version(package) for package in _PACKAGES},
    }


def _describe(network: FeatureNetwork) -> dict[str, Any]:
    shown = ("name", "mode", "fingerprint", "dimensions", "image_size", "channels")
    accuracy = network.held_out_accuracy
    known = {} if accuracy is None else {"held_out_accuracy": accuracy}
    return {name: getattr(network, name) for name in shown} | known


def _spread(values: list[float]) -> dict[str, Any]:
    """Return values with their mean and standard deviation (ddof 1)."""
    return {
        "mean": rounded(statistics.fmean(values)),
        "std": rounded(statistics.stdev(values)) if len(values) > 1 else None,
        "values": [rounded(value) for value in values],
    }


def _count_notes(plan: EvaluationPlan) -> list[str]:
    protocol, notes = plan.settings.protocol, []
    if plan.count < plan.wanted:
        notes.append(f"{plan.count} samples instead of {plan.wanted}: not comparable with others")
    if plan.floor_count < plan.count:
        notes.append(f"the floor has {plan.floor_count} images; the split has no more")
    uses_kernel = any("kernel" in part.metrics for part in plan.networks)
    size = kernel_subset_size(protocol, plan.count, plan.reference.available or 0)
    if uses_kernel and size < protocol.kernel_subset_size:
        notes.append(f"kernel: subsets of {size} instead of {protocol.kernel_subset_size} images")
    return notes
