"""Checkpoints: complete, checked by checksum, and either there or not.

A checkpoint is a folder `step-00001000` with the weights, their average and the optimizer's moments
as safetensors and the rest as JSON. It is written under another name, flushed to the disk and then
renamed, so that a run killed at any moment leaves whole checkpoints only. No file is a pickle.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from spikediff.errors import UserError, one_line, shown
from spikediff.reading import read_json, read_regular

MANIFEST = "manifest.json"
STATE = "state.json"
_UNFINISHED = ".unfinished-"
_log = logging.getLogger("spikediff")


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on.

    Attributes:
        step: Optimizer steps done.
        tensors: Groups of named tensors, one safetensors file each.
        state: The rest, as JSON.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep_last: int) -> Path:
    """Write a checkpoint; then remove all but the last `keep_last`.

    Args:
        folder: The folder of the run's checkpoints; made where it does not exist.
        checkpoint: What to keep.
        keep_last: How many to keep, at least 1.

    Returns:
        The checkpoint's folder.

    Raises:
        UserError: The disk is full; earlier checkpoints are untouched.
    """
    final = folder / f"step-{checkpoint.step:08d}"
    draft = folder / f"{_UNFINISHED}{final.name}"
    try:
        _write(draft, checkpoint)
        if final.exists():
            shutil.rmtree(final)
        os.rename(draft, final)
        _flush(folder)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        last = _newest_first(folder)
        kept = f"the last good checkpoint is {last[0]}" if last else "there is none yet"
        raise UserError(
            f"{final}: no space left on the disk; free some and use --resume; {kept}"
        ) from error
    for old in _newest_first(folder)[max(keep_last, 1) :]:
        shutil.rmtree(old)
    return final


def load_latest(folder: Path) -> Checkpoint | None:
    """Read the newest checkpoint that is whole; warn about those that are not.

    Args:
        folder: The folder of the run's checkpoints.

    Returns:
        The checkpoint, or None where there is none at all.

    Raises:
        UserError: There are checkpoints, and every one is damaged.
    """
    for draft in folder.glob(f"{_UNFINISHED}*"):
        _log.warning("%s: left unfinished by a killed run; removed", draft)
        shutil.rmtree(draft, ignore_errors=True)
    damaged = []
    for candidate in _newest_first(folder):
        try:
            return _read(candidate)
        except UserError as error:
            _log.warning("%s; falling back on the checkpoint before it", error)
            damaged.append(candidate.name)
    if damaged:
        raise UserError(f"{folder}: every checkpoint is damaged ({', '.join(damaged)})")
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def _write(draft: Path, checkpoint: Checkpoint) -> None:
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    contents = {
        f"{group}.safetensors": safetensors.torch.save(
            {name: x.contiguous() for name, x in tensors.items()}
        )
        for group, tensors in checkpoint.tensors.items()
    }
    state = {"step": checkpoint.step, **checkpoint.state}
    contents[STATE] = json.dumps(state, indent=1).encode()
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    contents[MANIFEST] = json.dumps({"sha256": sums}, indent=1).encode()
    for name, data in contents.items():
        with open(draft / name, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    _flush(draft)


def _flush(folder: Path) -> None:
    """Make the folder's entries durable; a rename is not, until its folder is synced."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(folder: Path) -> Checkpoint:
    manifest = read_json(folder / MANIFEST)
    sums = manifest.get("sha256") if isinstance(manifest, dict) else None
    if not isinstance(sums, dict) or not {STATE, *_WEIGHTS} <= sums.keys():
        raise UserError(f"{folder / MANIFEST}: damaged, it does not name {STATE} and the weights")
    if any(Path(name).name != name for name in sums):
        raise UserError(f"{folder / MANIFEST}: damaged, it names files of other folders")
    contents = {name: read_regular(folder / name) for name in sums}
    for name, data in contents.items():
        if hashlib.sha256(data).hexdigest() != sums[name]:
            raise UserError(f"{folder / name}: checksum differs, the file is damaged")
    del contents[STATE]
    state = _state(read_json(folder / STATE), folder / STATE)
    try:
        tensors = {
            name.removesuffix(".safetensors"): safetensors.torch.load(data)
            for name, data in contents.items()
        }
    except SafetensorError as error:
        raise UserError(f"{folder}: damaged ({one_line(error)})") from error
    return Checkpoint(state.pop("step"), tensors, state)


_WEIGHTS = ("model.safetensors", "average.safetensors", "optimizer.safetensors")
_NEEDED = {"step": int, "image_size": int, "averaged_updates": int, "lr_schedule": dict}


def _state(state: Any, path: Path) -> dict[str, Any]:
    """Return what a run goes on from after checking that all of it is there."""
    if not isinstance(state, dict):
        raise UserError(f"{path}: damaged, it holds {shown(state)}")
    for name, kind in _NEEDED.items():
        value = state.get(name)
        if not isinstance(value, kind) or isinstance(value, bool) or value in (-1, {}):
            raise UserError(f"{path}: damaged, {name} is {shown(value)}")
    return state
