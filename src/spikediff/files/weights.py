"""Read untrusted weights without running code in them, and load them under our names."""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from spikediff.errors import UserError, cut, kind_of, one_line, shown
from spikediff.files.pickles import scan_torch_file
from spikediff.files.reading import check_regular
from spikediff.files.tensors import check_finite

_SHOWN = 8  # number of faults that an error lists


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file: `read_foreign_weights`, then `find_state_dict`."""
    return find_state_dict(read_foreign_weights(path), ("state_dict",), str(path))


def read_foreign_weights(source: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    """Read a checkpoint of unknown origin without running any code that it may contain.

    The source is a `.safetensors` file, a file of `torch.save` that holds only tensors and plain
    containers, or the content of such a file. The returned tensors are on the CPU.
    """
    if isinstance(source, Mapping):
        return source
    path = check_regular(Path(source))
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        scan_torch_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise almost any exception
        raise UserError(
            f"{path}: cannot be read as weights ({_reason(error)}); give a safetensors file, or a "
            f"file of torch.save that holds tensors alone"
        ) from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds {kind_of(content)}, not a state dict")
    return content


def _reason(error: Exception) -> str:
    """Return the message without torch's advice to run the file's code."""
    line = one_line(error, most=10_000) or type(error).__name__
    found = re.search(r"WeightsUnpickler error: (.*?)(?: Please use| Check the doc|$)", line)
    return cut(found[1] if found else line)


def find_state_dict(
    content: Mapping[str, Any], keys: tuple[str, ...], where: str
) -> dict[str, Tensor]:
    """Return the network's tensors from a training checkpoint.

    The content is a state dict, or holds one under one of the `keys`. The prefix `module.` that
    DataParallel adds is removed. `where` names the source in the message.
    """
    content = next((content[k] for k in keys if isinstance(content.get(k), Mapping)), content)
    state = {
        key.removeprefix("module."): value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    if not state:
        first = ", ".join(shown(key) for key in islice(content, 8))
        raise UserError(f"{where}: holds no tensors; its keys are {first or 'none'}")
    return state


def load_renamed(
    model: nn.Module,
    state: Mapping[str, Tensor],
    what: str,
    their_name: Callable[[str], str] = lambda name: name,
    convert: Callable[[Tensor, str], Tensor] = lambda tensor, _name: tensor,
) -> None:
    """Copy weights with other names into a model, all of them or none.

    Args:
        model: Our model.
        state: Their state dict.
        what: Description of the state dict, for the message.
        their_name: Maps the name of our parameter or buffer to theirs.
        convert: Converts one of their tensors, given with its name, to our shape.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> load_renamed(layer, {"fc.w": torch.ones(1, 1)}, "example", {"weight": "fc.w"}.get)
        >>> layer.weight.item()
        1.0
    """
    ours = model.state_dict()
    theirs = {key: their_name(key) for key in ours}
    faults = [f"missing {key}" for key in theirs.values() if key not in state]
    known = set(theirs.values())
    faults += [f"unknown {key}" for key in state if key not in known]
    loaded = {key: convert(state[name], name) for key, name in theirs.items() if name in state}
    faults += [
        f"{theirs[key]} has shape {tuple(tensor.shape)}, not {tuple(ours[key].shape)}"
        for key, tensor in loaded.items()
        if tensor.shape != ours[key].shape
    ]
    faults += [
        f"{theirs[key]} holds {tensor.dtype}, not {ours[key].dtype}"
        for key, tensor in loaded.items()
        if tensor.is_floating_point() != ours[key].is_floating_point() or tensor.is_complex()
    ]
    if faults:
        raise UserError(f"{what}: {list_faults(faults, type(model).__name__)}")
    check_finite({theirs[key]: tensor for key, tensor in loaded.items()}, what)
    model.load_state_dict(loaded)


def list_faults(faults: Sequence[str], network: str) -> str:
    """Return the number of keys that do not fit a network, and the first of them, in words."""
    listed = "; ".join(faults[:_SHOWN]) + ("; ..." if len(faults) > _SHOWN else "")
    return f"{len(faults)} keys do not fit a {network}: {listed}"


def rename(name: str, table: Sequence[tuple[str, str]]) -> str:
    r"""Rewrite a name by the first pattern of a table that matches the entire name.

    Example:
        >>> rename("stem.conv.bias", [(r"stem\.conv\.(.*)", r"conv_in.\1")])
        'conv_in.bias'
    """
    for ours, theirs in table:
        if re.fullmatch(ours, name):
            return re.sub(ours, theirs, name)
    raise KeyError(name)


def conv3d_as_conv2d(tensor: Tensor, name: str) -> Tensor:
    """Return a tensor, with the weight of a (k, k, 1) Conv3d reshaped to that of a Conv2d.

    The published systems convolve windows whose last axis is time, and no kernel mixes spiking
    steps.
    """
    return tensor.squeeze(-1) if tensor.dim() == 5 and name.endswith("weight") else tensor
