"""Reading the weights of feature networks, without running any code that a file may carry."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from spikediff.errors import UserError

SHOWN = 3  # keys that an error names


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a safetensors file or from a file of `torch.save`.

    Args:
        path: The file; a `state_dict` inside it is looked for, and `module.` (which DataParallel
            puts before every key) is taken off.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        UserError: The file is absent, damaged, or holds anything but tensors and plain containers.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the weights of the feature network")
    try:
        content: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (
        SafetensorError,
        pickle.UnpicklingError,
        RuntimeError,
        OSError,
        ValueError,
        EOFError,
    ) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read as weights ({reason})") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"{path}: holds no state dict; give a file of named tensors")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def load_into(module: nn.Module, state: dict[str, Tensor], where: Path) -> None:
    """Load tensors into a module that has exactly these.

    Args:
        module: The module.
        state: Tensors by name.
        where: The file that they come from, for the message.

    Raises:
        UserError: Keys are missing or not known, or a shape differs.
    """
    own = module.state_dict()
    missing = [f"no {key}" for key in own if key not in state]
    foreign = [f"unknown {key}" for key in state if key not in own]
    misfits = [
        f"{key} has shape {list(state[key].shape)}, not {list(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    faults = missing + foreign + misfits
    if faults:
        shown = "; ".join(faults[:SHOWN]) + ("; ..." if len(faults) > SHOWN else "")
        raise UserError(
            f"{where}: not the weights of {type(module).__name__}, {len(faults)} keys differ: "
            f"{shown}"
        )
    module.load_state_dict(state)
