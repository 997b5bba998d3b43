"""Tensors on disk: finite, written atomically, with metadata that identifies their inputs."""

import hashlib
import logging
from collections.abc import Collection, Mapping
from math import isfinite
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from spikediff.errors import UserError
from spikediff.files.reading import check_regular
from spikediff.files.writing import write_whole

_log = logging.getLogger("spikediff")
_SHOWN = 3  # names that an error lists


_DAMAGED = "the weights of the network, or what it was given, are damaged"


def check_values(tensor: Tensor, where: str, cause: str = _DAMAGED) -> Tensor:
    """Return an output if it is finite; `where` and the likely `cause` are in the message."""
    bad = int((~tensor.isfinite()).sum())
    if bad:
        raise UserError(f"{where}: {bad} of {tensor.numel()} values are NaN or infinite; {cause}")
    return tensor


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse weights and buffers that are not finite, before any are written; allow integers.

    Example:
        >>> check_finite({"a": torch.ones(2), "b": torch.tensor(torch.nan)}, "example")
        Traceback (most recent call last):
        ...
        spikediff.errors.UserError: example: 1 of 2 tensors hold NaN or infinity: b
    """
    bad = [name for name, tensor in tensors.items() if not _finite(tensor)]
    if bad:
        shown = ", ".join(bad[:_SHOWN]) + (", ..." if len(bad) > _SHOWN else "")
        raise UserError(
            f"{where}: {len(bad)} of {len(tensors)} tensors hold NaN or infinity: {shown}"
        )


def _finite(tensor: Tensor) -> bool:
    # The sum of finite numbers may be infinite, but it is quick and almost always finite.
    return isfinite(tensor.sum()) or bool(tensor.isfinite().all())


def check_step(loss: Tensor, grad_norm: Tensor, step: int, lr: float) -> float:
    """Return the loss (0-dim); refuse an optimizer step that would corrupt the weights.

    `grad_norm` is the norm of all gradients. `step` and `lr` appear in the message.
    """
    if not bool((loss.detach() + grad_norm).isfinite()):
        raise UserError(
            f"the loss is {loss.item():g} and the gradient's norm {grad_norm.item():g} at step "
            f"{step}; use a smaller learning rate than {lr:g}"
        )
    return loss.item()


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file with a checksum, atomically; create its folder.

    NaN and infinity are refused. `metadata` identifies the inputs of the tensors.
    """
    check_finite(tensors, str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    noted = {**metadata, "checksum": state_digest(whole)}
    write_whole(path, safetensors.torch.save(whole, metadata=noted))


def read_tensors(
    path: Path, metadata: Mapping[str, str], needed: Collection[str] = ()
) -> dict[str, Tensor] | None:
    """Read a cache file of `write_tensors` if its metadata match and it holds the needed tensors.

    Return None if the file is missing, or, with a warning, if it is damaged or has other metadata.
    """
    try:
        found = read_with_metadata(path)
    except UserError as error:
        _log.warning("%s; made again", error)
        return None
    if found is None:
        return None
    tensors, noted = found
    if metadata.items() - noted.items() or set(needed) - set(tensors):
        _log.warning("%s: was made from something else; made again", path)
        return None
    return tensors


def read_with_metadata(path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Return the tensors and metadata of a file of `write_tensors`; None if it is missing."""
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(check_regular(path), framework="pt") as file:
            noted = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: is damaged ({error}); delete it") from error
    if noted.get("checksum") != state_digest(tensors):
        raise UserError(f"{path}: is damaged, its checksum differs; delete it")
    return tensors, noted


def state_digest(state: dict[str, Tensor]) -> str:
    """Return the SHA-256 of the names, types, shapes and bytes of tensors.

    Example:
        >>> a, b = {"w": torch.zeros(2)}, {"w": torch.zeros(2, 1)}
        >>> state_digest(a) == state_digest(a), state_digest(a) == state_digest(b)
        (True, False)
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()
