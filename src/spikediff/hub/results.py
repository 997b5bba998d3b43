"""Which files of a run are its own: what lies in its folder, and no link that leaves it.

Measured results for a card: found beside a run, given as files, or measured now.

A result counts only for the weights that it names. One that names others is refused where it was
given, and passed over where it was found.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spikediff.diffusion.pipeline import scheduler_name, weights_sha256
from spikediff.energy import EnergyMeter
from spikediff.errors import UserError, shown
from spikediff.files.reading import read_json


def own_file(path: Path, source: Path) -> Path:
    """Return the path of a file in a run's folder.

    A run may come from elsewhere, and with it a link to a file of this machine, which nobody means
    to upload.

    Args:
        path: The file.
        source: The run's folder.

    Raises:
        UserError: It is a link that leaves the folder.
    """
    if not path.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{path}: is a link that leaves {source}; put the file itself there")
    return path


_log = logging.getLogger("spikediff")

_NUMBER = (int, float)
_EVERY = object()  # stands for every key of a mapping
# What a card reads of a file of each kind, as `spikediff evaluate` and `spikediff energy` write it.
_SHAPES: dict[str, dict[Any, Any]] = {
    "evaluation": {
        "protocol": {"name": str, "caveat": str, "floor_split": str},
        "source": {},
        "counts": {"judged": int, "repeats": int, "reference": int},
        "dataset": str,
        "reference": {"split": str},
        "metrics": {_EVERY: {"mean": _NUMBER, "std": (*_NUMBER, type(None))}},
        "floor": {_EVERY: _NUMBER},
    },
    "energy": {
        "accounting": str,
        "costs": {"name": str},
        "images": int,
        "timesteps": list,
        "energy_per_image_pj": _NUMBER,
        "energy_per_step_pj": _NUMBER,
        "macs": _NUMBER,
        "acs": _NUMBER,
        "firing_rate": _NUMBER,
        "firing_rates": {_EVERY: _NUMBER},
    },
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
    found = [path for path in sorted(folder.glob("*.json")) if _is_own(path, folder)]
    return Results(
        _given("evaluation", evaluations, weights) or _found("evaluation", found, weights),
        _given("energy", energies, weights) or _found("energy", found, weights),
    )


def _is_own(path: Path, folder: Path) -> bool:
    """Return whether a file lies in a folder; warn of a link that leaves it."""
    try:
        own_file(path, folder)
    except UserError as error:
        _log.warning("%s; left out", error)
        return False
    return True


def _given(kind: str, paths: Sequence[Path], weights: str) -> tuple[dict[str, Any], ...]:
    results = []
    for path in paths:
        result = read_json(path)
        if not _is(kind, result):
            raise UserError(f"{path}: is no file of `spikediff {_COMMANDS[kind]} --json`")
        if _measured_on(result) not in (weights, None):
            raise UserError(f"{path}: was measured on other weights than these; measure again")
        results.append(_checked(kind, result, path))
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
        if _measured_on(result) != weights:
            _log.warning("%s: was not measured on these weights; left out", path)
            continue
        try:
            results.append(_checked(kind, result, path))
        except UserError as error:
            _log.warning("%s; left out", error)
    return tuple(results)


def _is(kind: str, result: Any) -> bool:
    """Return whether a file says that it is of a kind, whatever it holds."""
    return isinstance(result, dict) and _SHAPES[kind].keys() <= result.keys()


def _check_shape(value: Any, shape: Any, where: str) -> None:
    """Refuse a result that a card could not be written of.

    Raises:
        UserError: A key is missing, or its value is of another type.
    """
    if not isinstance(shape, dict):
        if not isinstance(value, shape) or (isinstance(value, bool) and shape is not bool):
            raise UserError(f"{where}: is damaged, {shown(value)} stands there; measure again")
        return
    if not isinstance(value, dict):
        raise UserError(f"{where}: is damaged, {shown(value)} stands there; measure again")
    for key, part in shape.items():
        for name in value if key is _EVERY else [key]:
            _check_shape(value.get(name), part, f"{where}: {name}")


def _checked(kind: str, result: Any, path: Path) -> Any:
    """Return a result after checking all that a card reads of it."""
    _check_shape(result, _SHAPES[kind], str(path))
    if kind == "energy" and result["images"] < 1:
        raise UserError(f"{path}: is damaged, it counts no images; measure again")
    if kind == "evaluation":
        source, seeds = result["source"], result.get("seeds")
        missing = result["metrics"].keys() - result["floor"].keys()
        optional = {"seeds": {"first": int, "last": int}, "notes": list, "source": dict}
        told = {"seeds": seeds, "notes": result.get("notes", []), "source": source}
        for key, value in told.items():
            if value is not None:
                _check_shape(value, optional[key], f"{path}: {key}")
        if missing or (source.get("scheduler") and "num_inference_steps" not in source):
            raise UserError(f"{path}: is damaged, it is not complete; measure again")
    return result


def _measured_on(result: dict[str, Any]) -> str | None:
    """Return the SHA-256 of the weights that a result names; None where it names none."""
    source = result.get("source", result)
    named = source.get("weights_sha256") if isinstance(source, dict) else None
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
