"""Measured results for a card: found beside a run, given as files, or measured now.

A result counts only for the weights that it names. A result for other weights is refused if it was
given, and skipped if it was found.
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spikediff.diffusion.classes import number_of_classes
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.model import ann_counterpart
from spikediff.diffusion.pipeline import scheduler_name, weights_sha256
from spikediff.energy import Comparison, EnergyMeter, compare, load_costs
from spikediff.errors import UserError, shown
from spikediff.files.reading import read_json

_log = logging.getLogger("spikediff")

_NUMBER = (int, float)
_COMMANDS = {"evaluation": "evaluate", "energy": "energy"}
# The parts that a card reads of the files that these commands write. "*" stands for every key; a
# key with a question mark may be absent or null.
_SHAPES: dict[str, dict[str, Any]] = {
    "evaluation": {
        "protocol": {"name": str, "caveat": str, "floor_split": str},
        "source": {},
        "seeds?": {"first": int, "last": int},
        "counts": {"judged": int, "repeats": int, "reference": int},
        "dataset": str,
        "reference": {"split": str},
        "metrics": {"*": {"mean": _NUMBER, "std?": _NUMBER}},
        "floor": {"*": _NUMBER},
        "notes?": list,
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
        "firing_rates": {"*": _NUMBER},
    },
}


@dataclass(frozen=True)
class Results:
    """Measurements of a model."""

    evaluations: tuple[dict[str, Any], ...] = ()  # contents of `spikediff evaluate --json`
    energies: tuple[dict[str, Any], ...] = ()  # contents of `spikediff energy --json`


def collect_results(
    folder: Path, weights: str, evaluations: Sequence[Path] = (), energies: Sequence[Path] = ()
) -> Results:
    """Read the results of a model from the given files, or else from its folder.

    Args:
        folder: The run's folder, which is searched for JSON files.
        weights: SHA-256 of the model's weights, `weights_sha256`.
        evaluations: Files of `spikediff evaluate --json`.
        energies: Files of `spikediff energy --json`.
    """
    given = {"evaluation": evaluations, "energy": energies}
    read = {kind: [_given(kind, path, weights) for path in paths] for kind, paths in given.items()}
    found = _found(folder, weights, [kind for kind, results in read.items() if not results])
    return Results(*(tuple(read[kind] or found[kind]) for kind in given))


def _given(kind: str, path: Path, weights: str) -> dict[str, Any]:
    result = read_json(path)
    if _kind_of(result) != kind:
        raise UserError(f"{path}: is not a file of `spikediff {_COMMANDS[kind]} --json`")
    if (measured_on := _measured_on(result)) != weights:
        fault = "was measured on other weights" if measured_on else "names no weights"
        raise UserError(f"{path}: {fault}; measure the model itself")
    return _checked(kind, result, path)


def _found(folder: Path, weights: str, kinds: Collection[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the results in a folder, by kind; warn about those that are left out."""
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in _SHAPES}
    for path in sorted(folder.glob("*.json")) if kinds else ():
        try:
            own_file(path, folder)
            kind = _kind_of(result := _readable(path))
            if kind not in kinds:
                continue
            if _measured_on(result) != weights:
                raise UserError(f"{path}: was not measured on these weights")
            found[kind].append(_checked(kind, result, path))
        except UserError as error:
            _log.warning("%s; left out", error)
    return found


def own_file(path: Path, source: Path) -> Path:
    """Return the path of a file in a run's folder; refuse a link that leaves the folder.

    A run from elsewhere may contain a link to a file of this machine, which must not be uploaded.
    """
    if not path.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{path}: is a link to a file outside {source}; put the file itself there")
    return path


def _readable(path: Path) -> Any:
    """Return a file's contents; None if it is not JSON."""
    try:
        return read_json(path)
    except UserError:
        return None


def _kind_of(result: Any) -> str:
    """Return the command that wrote a file, judged by its keys; empty if it is not one of ours."""
    keys = set(result) if isinstance(result, dict) else set()
    needed = {kind: {k for k in shape if k[-1] != "?"} for kind, shape in _SHAPES.items()}
    return next((kind for kind, required in needed.items() if required <= keys), "")


def _measured_on(result: dict[str, Any]) -> str | None:
    """Return the SHA-256 of the weights that a result names, if any."""
    source = result.get("source", result)
    named = source.get("weights_sha256") if isinstance(source, dict) else None
    return None if named is None else str(named)


def _checked(kind: str, result: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return a result after checking everything that a card reads from it."""
    _check_shape(result, _SHAPES[kind], str(path))
    if kind == "energy" and result["images"] < 1:
        raise UserError(f"{path}: is damaged, it counts no images; measure again")
    if kind == "evaluation":
        source = result["source"]
        without_steps = source.get("scheduler") and "num_inference_steps" not in source
        if without_steps or not result["metrics"].keys() <= result["floor"].keys():
            raise UserError(f"{path}: is damaged, it is not complete; measure again")
    return result


def _check_shape(value: Any, shape: Any, where: str) -> None:
    """Refuse a result that a card cannot show: a key is missing, or a value has the wrong type."""
    wanted = dict if isinstance(shape, dict) else shape
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise UserError(f"{where}: is damaged, {shown(value)} is not a result; measure again")
    for key, part in shape.items() if isinstance(shape, dict) else ():
        for name in value if key == "*" else [key.removesuffix("?")]:
            if key[-1] != "?" or value.get(name) is not None:
                _check_shape(value.get(name), part, f"{where}: {name}")


def measure_energy(
    pipe: Any, num_inference_steps: int, images: int = 16
) -> tuple[dict[str, Any], ...]:
    """Meter the generation of images from seeds 0, 1, ...; return both accountings at 45 nm."""
    with EnergyMeter(pipe, images=images) as meter:
        pipe(seeds=range(images), num_inference_steps=num_inference_steps, output_type="pt")
    measured = {"weights_sha256": weights_sha256(pipe), "scheduler": scheduler_name(pipe)}
    return tuple(
        meter.report(accounting, "45nm").to_dict() | measured for accounting in ("strict", "paper")
    )


def compare_with_ordinary(pipe: Any, **call: Any) -> Comparison:
    """Meter a pipeline and its untrained ordinary counterpart, and compare them at 45 nm."""
    counterpart = ann_counterpart(pipe.unet).eval().to(pipe.unet.device)
    ordinary = SpikingDiffusionPipeline(counterpart, pipe.scheduler)
    ordinary.set_progress_bar_config(disable=True)
    with EnergyMeter(pipe, changes=True) as spiking:
        pipe(**call)
    if not number_of_classes(counterpart):  # the energy is the same
        call.pop("class_labels", None)
    with EnergyMeter(ordinary) as meter:
        ordinary(**call)
    return compare(spiking, meter, load_costs("45nm"))
