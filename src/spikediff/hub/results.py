"""Measured results for a card: found beside a run, given as files, or measured now.

A result counts only for the weights that it names. One that names others is refused where it was
given, and passed over where it was found.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spikediff.energy import EnergyMeter
from spikediff.errors import UserError
from spikediff.pipelines.identity import scheduler_name, weights_sha256

_log = logging.getLogger("spikediff")

# What a file of each kind has, as `spikediff evaluate` and `spikediff energy` write it.
_KEYS = {
    "evaluation": {"protocol", "source", "counts", "metrics", "floor"},
    "energy": {"accounting", "costs", "images", "energy_per_image_pj", "firing_rates"},
}


@dataclass(frozen=True)
class Results:
    """What is known of a model by measurement.

    Attributes:
        evaluations: Contents of `spikediff evaluate --json`.
        energies: Contents of `spikediff energy --json`.
    """

    evaluations: tuple[dict[str, Any], ...] = ()
    energies: tuple[dict[str, Any], ...] = ()


def collect_results(
    folder: Path, weights: str, evaluations: Sequence[Path] = (), energies: Sequence[Path] = ()
) -> Results:
    """Read the results of a model: those that are given, else those in its folder.

    Args:
        folder: The run's folder, in which JSON files are looked for.
        weights: SHA-256 of the model's weights, `weights_sha256`.
        evaluations: Files of `spikediff evaluate --json`.
        energies: Files of `spikediff energy --json`.

    Raises:
        UserError: A file that was given is no result, or one of other weights.
    """
    found = sorted(folder.glob("*.json"))
    return Results(
        _given("evaluation", evaluations, weights) or _found("evaluation", found, weights),
        _given("energy", energies, weights) or _found("energy", found, weights),
    )


def _given(kind: str, paths: Sequence[Path], weights: str) -> tuple[dict[str, Any], ...]:
    results = []
    for path in paths:
        result = read_json(path)
        if not _is(kind, result):
            raise UserError(f"{path}: is no file of `spikediff {_COMMANDS[kind]} --json`")
        if _measured_on(result) not in (weights, None):
            raise UserError(f"{path}: was measured on other weights than these; measure again")
        results.append(result)
    return tuple(results)


_COMMANDS = {"evaluation": "evaluate", "energy": "energy"}


def _found(kind: str, paths: Iterable[Path], weights: str) -> tuple[dict[str, Any], ...]:
    results = []
    for path in paths:
        try:
            result = read_json(path)
        except UserError:
            continue  # whatever it is, it is none of ours
        if not _is(kind, result):
            continue
        if _measured_on(result) == weights:
            results.append(result)
        else:
            _log.warning("%s: was not measured on these weights; left out", path)
    return tuple(results)


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Args:
        path: The file.

    Raises:
        UserError: It is absent or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from error


def _is(kind: str, result: Any) -> bool:
    return isinstance(result, dict) and _KEYS[kind] <= result.keys()


def _measured_on(result: dict[str, Any]) -> str | None:
    """Return the SHA-256 of the weights that a result names; None where it names none."""
    named = result.get("source", result).get("weights_sha256")
    return None if named is None else str(named)


def measure_energy(
    pipe: Any, num_inference_steps: int, images: int = 16
) -> tuple[dict[str, Any], ...]:
    """Generate images under a meter; return the counts, by each accounting, at 45 nm.

    Args:
        pipe: A pipeline that generates images.
        num_inference_steps: Network calls per image.
        images: How many images, of the seeds from 0 on.
    """
    with EnergyMeter(pipe) as meter:
        pipe(seeds=range(images), num_inference_steps=num_inference_steps, output_type="pt")
    told = {
        "weights_sha256": weights_sha256(pipe),
        "scheduler": scheduler_name(pipe),
    }
    return tuple(
        meter.report(accounting, "45nm").to_dict() | told for accounting in ("strict", "paper")
    )
