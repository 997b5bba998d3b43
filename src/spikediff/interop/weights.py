"""Reading weights that others saved: safetensors, or a `.pt` file through the safe unpickler."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from spikediff.errors import UserError


def read_foreign_weights(source: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    """Read a checkpoint of unknown origin without running any code that it may carry.

    Args:
        source: A `.safetensors` file, a file of `torch.save`, or what one of them holds.

    Returns:
        The mapping that the file holds, tensors on the CPU.

    Raises:
        UserError: The file is absent, damaged, or holds anything but tensors and plain containers.
    """
    if isinstance(source, Mapping):
        return source
    path = Path(source)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path}: cannot be read as weights ({reason}); give a safetensors file, or a file of "
            f"torch.save that holds tensors alone"
        ) from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a state dict")
    return content


def find_state_dict(
    content: Mapping[str, Any], keys: tuple[str, ...], where: str
) -> dict[str, Tensor]:
    """Return the network's tensors out of a training checkpoint.

    Args:
        content: A state dict, or a mapping that holds one.
        keys: Names under which the state dict may be found.
        where: The source, for the message.

    Returns:
        The state dict, without the `module.` that DataParallel puts before every key.

    Raises:
        UserError: There are no tensors.
    """
    for key in keys:
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    state = {str(k).removeprefix("module."): v for k, v in content.items() if isinstance(v, Tensor)}
    if not state:
        raise UserError(f"{where}: holds no tensors; its keys are {sorted(map(str, content))[:8]}")
    return state
