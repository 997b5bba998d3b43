"""Refusing NaN and infinity, before a picture, a file or a decision is made of them.

Tensors in a file that is whole or absent, and that says what it was made from.
"""

import hashlib
import logging
from collections.abc import Collection, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from spikediff.errors import UserError
from spikediff.files.reading import check_regular
from spikediff.files.writing import write_whole

_SHOWN = 3  # names that an error lists


def check_values(tensor: Tensor, where: str) -> Tensor:
    """Return a tensor that a network made, if all of it is finite.

    Args:
        tensor: Floating point, any shape.
        where: What it is, for the message.

    Raises:
        UserError: A value is NaN or infinite.
    """
    bad = int((~tensor.isfinite()).sum())
    if bad:
        raise UserError(
            f"{where}: {bad} of {tensor.numel()} values are NaN or infinite; the weights of the "
            f"network, or what it was given, are damaged"
        )
    return tensor


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse weights that are not finite; whoever writes weights asks here first.

    Args:
        tensors: Weights and buffers by name; whole numbers pass.
        where: What they are, for the message.

    Raises:
        UserError: A value is NaN or infinite; the message names the first tensors.

    Example:
        >>> import torch
        >>> check_finite({"a": torch.ones(2), "b": torch.tensor(torch.nan)}, "example")
        Traceback (most recent call last):
        ...
        spikediff.errors.UserError: example: 1 of 2 tensors hold NaN or infinity: b
    """
    bad = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if bad:
        shown = ", ".join(bad[:_SHOWN]) + (", ..." if len(bad) > _SHOWN else "")
        raise UserError(
            f"{where}: {len(bad)} of {len(tensors)} tensors hold NaN or infinity: {shown}"
        )


def check_step(loss: Tensor, grad_norm: Tensor, step: int, lr: float) -> float:
    """Return the loss, if the optimizer may step: its gradients would spoil the weights otherwise.

    Args:
        loss: Of the step, 0-dim.
        grad_norm: Of all gradients, 0-dim.
        step: Number of the step, for the message.
        lr: Learning rate, for the message.

    Raises:
        UserError: One of the two is NaN or infinite.
    """
    if not bool((loss.detach() + grad_norm).isfinite()):
        raise UserError(
            f"the loss is {loss.item():g} and the gradient's norm {grad_norm.item():g} at step "
            f"{step}; take a smaller learning rate than {lr:g}"
        )
    return loss.item()


_log = logging.getLogger("spikediff")


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file that is either there and whole or not there.

    Args:
        path: The file; its folder is made.
        tensors: What to write.
        metadata: Text to keep beside it.

    Raises:
        UserError: A value is NaN or infinite; nothing is written.
    """
    check_finite(tensors, str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    told = {**metadata, "checksum": state_digest(whole)}
    write_whole(path, safetensors.torch.save(whole, metadata=told))


def read_tensors(
    path: Path, metadata: Mapping[str, str], needed: Collection[str] = ()
) -> dict[str, Tensor] | None:
    """Read a file of `write_tensors`.

    Args:
        path: The file.
        metadata: What the file must say of itself.
        needed: Names of tensors that it must hold.

    Returns:
        The tensors; None where there is no file, or, with a warning, where it is damaged or was
        made from something else.
    """
    try:
        kept = told_of(path)
    except UserError as error:
        _log.warning("%s; made again", error)
        return None
    if kept is None:
        return None
    tensors, told = kept
    if any(told.get(key) != value for key, value in metadata.items()) or set(needed) - set(tensors):
        _log.warning("%s: was made from something else; made again", path)
        return None
    return tensors


def told_of(path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Return the tensors of a file of `write_tensors`, and what it says of itself.

    Args:
        path: The file.

    Returns:
        None where there is no file.

    Raises:
        UserError: It is damaged.
    """
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(check_regular(path), framework="pt") as file:
            told = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: is damaged ({error}); delete it") from error
    if told.get("checksum") != state_digest(tensors):
        raise UserError(f"{path}: is damaged, its checksum differs; delete it")
    return tensors, told


def state_digest(state: dict[str, Tensor]) -> str:
    """Return SHA-256 over the names, types, shapes and bytes of tensors.

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
