"""The result of an evaluation, as JSON knows it: everything that a number needs beside it.

It holds no time and no path, so that the same evaluation gives the same bytes.
"""

import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from spikediff.evaluation.features import FeatureNetwork
from spikediff.evaluation.plan import EvaluationPlan
from spikediff.evaluation.scores import Scores, kernel_subset_size
from spikediff.evaluation.sources import public_name
from spikediff.reading import file_sha256

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
        "reference": _reference(plan),
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


def _reference(plan: EvaluationPlan) -> dict[str, Any]:
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
