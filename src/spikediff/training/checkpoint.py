"""Checkpoints, written atomically and verified by checksum.

A checkpoint is a folder such as `step-00001000`. It holds the weights, their average and the
optimizer's moments as safetensors, and the rest as JSON; there are no pickles. It is written under
a temporary name, flushed to disk and then renamed, so a killed run leaves only complete
checkpoints.

Readers change nothing: they accept a complete draft as a checkpoint and skip an incomplete one. The
owner of the run cleans up (`settle`).
"""

import errno
import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from spikediff.errors import UserError, one_line, shown
from spikediff.files.reading import read_json, read_regular
from spikediff.files.weights import load_renamed
from spikediff.files.writing import (
    UNFINISHED,
    leftovers,
    put_in_place,
    remove,
    remove_folder,
    whole_folder,
)

MANIFEST = "manifest.json"
STATE = "state.json"
_WEIGHTS = ("model.safetensors", "average.safetensors", "optimizer.safetensors")
_NEEDED = {"step": int, "image_size": int, "averaged_updates": int, "lr_schedule": dict}
_TRIES = 10  # attempts to read while a training run keeps writing
_log = logging.getLogger("spikediff")


@dataclass(frozen=True)
class Checkpoint:
    """The state that a run resumes from."""

    step: int  # optimizer steps done
    tensors: dict[str, dict[str, Tensor]]  # groups, one safetensors file each
    state: dict[str, Any]  # the rest, as JSON


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep_last: int) -> Path:
    """Write a checkpoint unless it exists, remove all but the last `keep_last`, return its folder.

    If the disk is full, raise a `UserError` and keep the earlier checkpoints.
    """
    final = folder / f"step-{checkpoint.step:08d}"
    contents = _contents(checkpoint)
    try:
        with whole_folder(final) as draft:
            for name, data in contents.items():
                (draft / name).write_bytes(data)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        what = "no space left on the disk; free some"
        if error.errno == errno.EFBIG:
            what = "a file is larger than the system allows (ulimit -f); raise the limit"
        last = _newest_first(folder)
        kept = f"the last good checkpoint is {last[0]}" if last else "there is no checkpoint yet"
        raise UserError(f"{final}: {what} and use --resume; {kept}") from error
    steps = [old for old in _newest_first(folder) if _step_of(old) <= checkpoint.step]
    for old in set(_newest_first(folder)) - set(steps[: max(keep_last, 1)]):
        remove_folder(old)  # a later one is damaged, or the run would have resumed from it
    return final


def _contents(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Return the files of a checkpoint; the manifest, which proves it complete, comes last."""
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


def load_latest(folder: Path) -> Checkpoint | None:
    """Read the newest complete checkpoint without changing anything; warn about damaged ones.

    Return None if there are no checkpoints; refuse a folder whose checkpoints are all damaged.
    """
    for _ in range(_TRIES):
        candidates = _newest_first(folder, drafts=True)
        checkpoint, damaged = _first_whole(candidates)
        if not damaged or candidates == _newest_first(folder, drafts=True):
            break  # otherwise the training run has written meanwhile
    if damaged and checkpoint is None:
        raise UserError(f"{folder}: every checkpoint is damaged ({', '.join(damaged)})")
    for reason in damaged.values():
        _log.warning("%s; falling back on the checkpoint before it", reason)
    return checkpoint


def _newest_first(folder: Path, drafts: bool = False) -> list[Path]:
    """Return the checkpoints, each followed by its draft if requested."""
    pattern = re.compile(f"({re.escape(UNFINISHED)})?step-[0-9]+" if drafts else "step-[0-9]+")
    found = [path for path in folder.glob("*step-*") if pattern.fullmatch(path.name)]
    return sorted(found, key=lambda path: (_step_of(path), path.name), reverse=True)


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix(UNFINISHED).removeprefix("step-"))


def _first_whole(candidates: list[Path]) -> tuple[Checkpoint | None, dict[str, UserError]]:
    """Return the first complete checkpoint, and the errors of those before it, by name."""
    damaged: dict[str, UserError] = {}
    for candidate in candidates:
        try:
            return _read(candidate), damaged
        except UserError as error:
            if not candidate.name.startswith(UNFINISHED):
                damaged[candidate.name] = error
    return None, damaged


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
    state = _checked(read_json(folder / STATE), folder / STATE)
    try:
        tensors = {
            name.removesuffix(".safetensors"): safetensors.torch.load(data)
            for name, data in contents.items()
        }
    except SafetensorError as error:
        raise UserError(f"{folder}: damaged ({one_line(error)})") from error
    return Checkpoint(state.pop("step"), tensors, state)


def _checked(state: Any, path: Path) -> dict[str, Any]:
    """Return the state if it contains everything a run needs."""
    if not isinstance(state, dict):
        raise UserError(f"{path}: damaged, it holds {shown(state)}")
    for name, kind in _NEEDED.items():
        value = state.get(name)
        if not isinstance(value, kind) or isinstance(value, bool) or value in (-1, {}):
            raise UserError(f"{path}: damaged, {name} is {shown(value)}")
    return state


def settle(folder: Path) -> None:
    """Clean up after a killed process: adopt a complete draft, remove any other."""
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


@dataclass
class TrainingState:
    """Everything that an optimizer step changes."""

    network: nn.Module
    average: AveragedModel
    optimizer: torch.optim.Optimizer
    lr_schedule: LambdaLR
    scaler: Any  # scales fp16 gradients; None otherwise

    def checkpoint(self, step: int, **facts: Any) -> Checkpoint:
        """Return the state as a checkpoint, with `facts` in its JSON."""
        schedule = self.lr_schedule.state_dict()
        kept = ("last_epoch", "_step_count", "_last_lr")
        moments = self.optimizer.state_dict()["state"].items()
        tensors = {
            "model": plain_names(self.network.state_dict()),
            "average": plain_names(self.average.module.state_dict()),
            "optimizer": {f"{i}.{name}": x for i, named in moments for name, x in named.items()},
        }
        state = {
            **facts,
            "averaged_updates": int(self.average.n_averaged),
            "lr_schedule": {key: value for key, value in schedule.items() if key in kept},
            "grad_scaler": None if self.scaler is None else self.scaler.state_dict(),
        }
        return Checkpoint(step, tensors, state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Load a checkpoint; the learning rate comes from the run's current recipe."""
        tensors, state = checkpoint.tensors, checkpoint.state
        _load(self.network, tensors["model"])
        _load(self.average.module, tensors["average"])
        self.average.n_averaged.fill_(state["averaged_updates"])
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors["optimizer"].items():
            index, name = key.split(".", 1)
            moments.setdefault(int(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        if state["grad_scaler"] and self.scaler is not None:
            self.scaler.load_state_dict(state["grad_scaler"])
        schedule = self.lr_schedule
        schedule.load_state_dict({**schedule.state_dict(), **state["lr_schedule"]})
        shares = [share(schedule.last_epoch) for share in schedule.lr_lambdas]
        schedule._last_lr = [lr * s for lr, s in zip(schedule.base_lrs, shares, strict=True)]
        for group, lr in zip(self.optimizer.param_groups, schedule._last_lr, strict=True):
            group["lr"] = lr


def plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by the network's own names, without the prefixes of wrappers.

    Example:
        >>> list(plain_names({"module._orig_mod.stem.weight": 0, "down._orig_mod.bias": 1}))
        ['stem.weight', 'down.bias']
    """
    return {_plain_name(name): tensor for name, tensor in state.items()}


def _plain_name(name: str) -> str:
    parts = [part for part in name.split(".") if part != "_orig_mod"]  # torch.compile
    wrapped = parts[0] == "module" and len(parts) > 1  # DistributedDataParallel
    return ".".join(parts[1:] if wrapped else parts)


def _load(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load weights into a network, ignoring wrappers at the time of saving and now."""
    what = "the checkpoint is of another network than the recipe's"
    load_renamed(network, plain_names(state), what, _plain_name)
