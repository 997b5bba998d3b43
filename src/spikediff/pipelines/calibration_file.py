"""A calibration kept beside the weights that it was measured on."""

import json
from math import isfinite
from pathlib import Path
from typing import Any

from spikediff.errors import UserError, cut, shown
from spikediff.reading import file_sha256, read_json
from spikediff.whole import write_whole

_NAME = "calibration.json"
_WEIGHTS = Path("unet") / "diffusion_pytorch_model.safetensors"
_SETTINGS = ("second_moment", "second_moment_timesteps", "clip_last_noise")


def save_calibration(
    folder: Path, settings: dict[str, Any], facts: dict[str, Any], kept: Path | None = None
) -> Path:
    """Write a calibration into a pipeline's folder, or beside others by the weights' SHA-256.

    Args:
        folder: The pipeline's folder.
        settings: Settings of `AnalyticDPMScheduler`.
        facts: How it was measured, for a reader.
        kept: A folder to write into instead of the pipeline's; it is made. Models that ship with
            the package are never written to.

    Returns:
        The file's path.

    Raises:
        UserError: The folder holds no pipeline.
    """
    content = {"weights_sha256": _hash(folder), "measured": facts, "settings": settings}
    path = _path(folder, kept)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(content, indent=1) + "\n")
    return path


def _path(folder: Path, kept: Path | None) -> Path:
    return folder / _NAME if kept is None else kept / f"{_hash(folder)}.json"


def load_calibration(folder: Path, kept: Path | None = None) -> dict[str, Any]:
    """Return the settings of `AnalyticDPMScheduler` that were measured on a pipeline's weights.

    Args:
        folder: The pipeline's folder.
        kept: Where it is kept instead, as in `save_calibration`.

    Raises:
        UserError: There is no calibration, it is damaged, or the weights have changed since.
    """
    path = _path(folder, kept)
    advice = f"run `spikediff calibrate {folder}`"
    if not path.is_file():
        raise UserError(f"{folder}: analytic-dpm needs a calibration; {advice}")
    try:
        content = read_json(path)
        settings = {key: content["settings"][key] for key in _SETTINGS}
        measured_on = content["weights_sha256"]
        moments = [float(value) for value in _numbers(settings["second_moment"])]
        timesteps = _numbers(settings["second_moment_timesteps"])
        if len(moments) != len(timesteps) or not moments:
            raise ValueError("lists of different lengths")
        if any(not isinstance(t, int) or t < 0 for t in timesteps):
            raise ValueError("timesteps that are none")
        if (
            settings["clip_last_noise"] is not None
            and _numbers([settings["clip_last_noise"]])[0] < 0
        ):
            raise ValueError("a negative clip_last_noise")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is damaged ({cut(str(error))}); {advice}") from error
    if measured_on != _hash(folder):
        raise UserError(f"{path}: was measured on other weights; {advice}")
    return settings


def _numbers(values: Any) -> list[float]:
    """Return a list after checking that it holds finite numbers alone."""
    if not isinstance(values, list):
        raise TypeError(f"{shown(values)} is no list")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise TypeError(f"{shown(value)} is no number")
    return values


def _hash(folder: Path) -> str:
    weights = folder / _WEIGHTS
    if not weights.is_file():
        raise UserError(f"{folder}: holds no pipeline to calibrate; give a finished run")
    return file_sha256(weights)
