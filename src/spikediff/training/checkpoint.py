"""Names of weights as the network has them, whatever wraps it in training.

Checkpoints: complete, checked by checksum, and either there or not.

A checkpoint is a folder `step-00001000` with the weights, their average and the optimizer's moments
as safetensors and the rest as JSON. It is written under another name, flushed to the disk and then
renamed, so that a run killed at any moment leaves whole checkpoints only. No file is a pickle.

Whoever reads changes nothing: a draft that is whole counts as a checkpoint, one that is not is
passed over. The owner of the run puts both in order (`settle`).
"""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from spikediff.errors import UserError, one_line, shown
from spikediff.files.reading import read_json, read_regular
from spikediff.files.writing import (
    UNFINISHED,
    flush,
    leftovers,
    put_in_place,
    remove,
    remove_folder,
    unfinished,
)

_COMPILED = "_orig_mod"  # torch.compile, of the whole network or of a part
_PARALLEL = "module"  # DistributedDataParallel, around the whole network


def plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors without what wrappers put before their names.

    Example:
        >>> list(plain_names({"module._orig_mod.stem.weight": 0, "down._orig_mod.bias": 1}))
        ['stem.weight', 'down.bias']
    """
    return {plain_name(name): tensor for name, tensor in state.items()}


def plain_name(name: str) -> str:
    """Return a name without what wrappers put before it."""
    parts = [part for part in name.split(".") if part != _COMPILED]
    return ".".join(parts[1:] if parts[0] == _PARALLEL and len(parts) > 1 else parts)


def load_plain(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load weights into a network, whatever wrapped it or wraps it now.

    Args:
        network: The network.
        state: Its weights, by names of this or of an earlier version.
    """
    theirs = {plain_name(name): name for name in network.state_dict()}
    network.load_state_dict({theirs.get(n, n): x for n, x in plain_names(state).items()})


MANIFEST = "manifest.json"
STATE = "state.json"
_TRIES = 10  # of reading while the training that writes goes on
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
        checkpoint: What to keep; where it is there already, bit for bit, it is left alone.
        keep_last: How many to keep, at least 1.

    Returns:
        The checkpoint's folder.

    Raises:
        UserError: The disk is full; earlier checkpoints are untouched.
    """
    final = folder / f"step-{checkpoint.step:08d}"
    contents = _contents(checkpoint)
    if not _holds(final, contents):
        try:
            _write(unfinished(final), contents)
            put_in_place(unfinished(final), final)
        except OSError as error:
            shutil.rmtree(unfinished(final), ignore_errors=True)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            last = _newest_first(folder)
            kept = f"the last good checkpoint is {last[0]}" if last else "there is none yet"
            raise UserError(
                f"{final}: no space left on the disk; free some and use --resume; {kept}"
            ) from error
    steps = [old for old in _newest_first(folder) if _step_of(old) <= checkpoint.step]
    for old in set(_newest_first(folder)) - set(steps[: max(keep_last, 1)]):
        remove_folder(old)  # what is later is damaged, or the run would have gone on from there
    return final


def load_latest(folder: Path) -> Checkpoint | None:
    """Read the newest checkpoint that is whole, and change nothing; warn about those that are not.

    Args:
        folder: The folder of the run's checkpoints.

    Returns:
        The checkpoint, or None where there is none at all.

    Raises:
        UserError: There are checkpoints, and every one is damaged.
    """
    for _ in range(_TRIES):
        candidates = _newest_first(folder, drafts=True)
        checkpoint, damaged = _first_whole(candidates)
        if not damaged or candidates == _newest_first(folder, drafts=True):
            break  # else the training has gone on meanwhile
    if damaged and checkpoint is None:
        raise UserError(f"{folder}: every checkpoint is damaged ({', '.join(damaged)})")
    for reason in damaged.values():
        _log.warning("%s; falling back on the checkpoint before it", reason)
    return checkpoint


def _first_whole(candidates: list[Path]) -> tuple[Checkpoint | None, dict[str, UserError]]:
    """Return the first checkpoint that is whole, and the faults of those before it, by name."""
    damaged: dict[str, UserError] = {}
    for candidate in candidates:
        try:
            return _read(candidate), damaged
        except UserError as error:
            if not candidate.name.startswith(UNFINISHED):
                damaged[candidate.name] = error
    return None, damaged


def settle(folder: Path) -> None:
    """Put the folder in order after a kill: adopt a draft that is whole, remove what is not.

    Args:
        folder: The folder of the checkpoints of a run that this process owns.
    """
    for left in leftovers(folder):
        final = left.with_name(left.name.removeprefix(UNFINISHED))
        if left != final and _is_whole(left) and not _is_whole(final):
            put_in_place(left, final)
        else:
            _log.warning("%s: left unfinished by a killed run; removed", left)
            remove(left)


def _is_whole(folder: Path) -> bool:
    try:
        _read(folder)
    except UserError:
        return False
    return True


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix(UNFINISHED).removeprefix("step-"))


def _newest_first(folder: Path, drafts: bool = False) -> list[Path]:
    """Return the checkpoints, and behind each its draft if those are asked for."""
    pattern = re.compile(f"({re.escape(UNFINISHED)})?step-[0-9]+" if drafts else "step-[0-9]+")
    found = [path for path in folder.glob("*step-*") if pattern.fullmatch(path.name)]
    return sorted(found, key=lambda path: (_step_of(path), path.name), reverse=True)


def _contents(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Return the files of a checkpoint; the manifest, which tells whether it is whole, is last."""
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
    return contents


def _holds(folder: Path, contents: dict[str, bytes]) -> bool:
    """Return whether these are the files of a folder, byte for byte."""
    files = {name: folder / name for name in contents}
    return all(f.is_file() and f.read_bytes() == contents[name] for name, f in files.items())


def _write(draft: Path, contents: dict[str, bytes]) -> None:
    remove(draft)
    draft.mkdir(parents=True)
    for name, data in contents.items():
        with open(draft / name, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    flush(draft)


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
