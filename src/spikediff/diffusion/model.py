"""The base of every network, which loads completely or not at all; ordinary counterparts."""

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import safetensors
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import logging
from torch import Tensor, nn

from spikediff.errors import UserError, cut, one_line, shown
from spikediff.files.reading import check_regular, read_json
from spikediff.files.tensors import check_finite
from spikediff.files.weights import list_faults
from spikediff.layers.sizes import MOST_LAYERS

WEIGHTS = "diffusion_pytorch_model"
_MOST = 2**24  # of a number in a configuration
# Names that diffusers gave the projections of attention before.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class SpikingModel(ModelMixin, ConfigMixin):
    """Base of every network: saves and loads like diffusers, but completely or not at all.

    `from_config` accepts every value; diffusers' own drops those of positional arguments.
    """

    def register_to_config(self, **settings: Any) -> None:
        """Set settings, without recording any as a default."""
        settings.pop("_use_default_values", None)
        super().register_to_config(**settings)

    @classmethod
    def extract_init_dict(cls, config_dict: Mapping[str, Any], **settings: Any) -> Any:
        """Return the arguments of a configuration, without diffusers' entry for `AutoModel`."""
        kept = {key: value for key, value in config_dict.items() if key != "auto_map"}
        return super().extract_init_dict(kept, **settings)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **options: Any) -> Any:
        """Load a network as diffusers does, with its weights copied out of the file.

        Args:
            pretrained_model_name_or_path: A folder, or a name on the Hub.
            options: diffusers' keyword arguments.

        Raises:
            UserError: Tensors are missing, unknown, of another shape or kind, or not finite; or the
                configuration does not fit the network.
        """
        path = pretrained_model_name_or_path
        folder = Path(path) / (options.get("subfolder") or "")
        if folder.is_dir():
            check_saved(cls, folder, options.get("variant"))
        wants_info = options.pop("output_loading_info", False)
        model, info = super().from_pretrained(path, output_loading_info=True, **options)
        faults = [f"missing {key}" for key in info["missing_keys"]]
        faults += [f"unknown {key}" for key in info["unexpected_keys"]]
        if faults:
            raise UserError(f"{path}: {list_faults(faults, cls.__name__)}")
        with_own_memory(model, options.get("dtype") or options.get("torch_dtype"))
        check_finite(model.state_dict(), str(folder))
        return (model, info) if wants_info else model


def check_saved(cls: Any, folder: Path, variant: str | None = None) -> bool:
    """Refuse a saved network that would not load completely; return if it has safetensors files."""
    if not (folder / "config.json").exists():
        raise UserError(f"{folder / 'config.json'}: missing; it defines the network")
    expected = _state_of(cls, folder)
    files = _files(folder, variant)
    if not files:
        return False
    saved = {_new_name(k, expected): v for path in files for k, v in read_head(path).items()}
    faults = [f"missing {name}" for name in expected if name not in saved]
    faults += [f"unknown {name}" for name in saved if name not in expected]
    for name, tensor in expected.items():
        kind, shape = saved.get(name, ("", None))
        if shape not in (None, tuple(tensor.shape)):
            faults.append(f"{name} has shape {shape}, not {tuple(tensor.shape)}")
        elif shape is not None and not _fits(kind, tensor.dtype):
            faults.append(f"{name} holds {kind}, not {tensor.dtype}")
    if faults:
        raise UserError(f"{folder}: {list_faults(faults, cls.__name__)}")
    return True


def read_head(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the types (F32, BOOL, ...) and shapes of the tensors in a safetensors file's header.

    Raise a `UserError` for a damaged file.
    """
    try:
        with safetensors.safe_open(check_regular(path), framework="pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {k: (v.get_dtype(), tuple(v.get_shape())) for k, v in parts.items()}
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path}: is damaged ({one_line(error, 200)})") from error


def _files(folder: Path, variant: str | None) -> list[Path]:
    """Return the files of the weights: one, or those that an index names; none without either."""
    mark = "" if variant is None else f".{variant}"
    single, index = (
        folder / f"{WEIGHTS}{mark}.safetensors",
        folder / f"{WEIGHTS}.safetensors.index{mark}.json",
    )
    if single.exists():
        return [single]
    if not index.exists():
        return []
    content = read_json(index)
    named = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise UserError(f"{index}: is damaged, it has no weight_map")
    names = sorted(set(named.values()))
    if any(Path(name).name != name for name in names):
        raise UserError(f"{index}: is damaged, it names files of other folders")
    return [folder / name for name in names]


def _state_of(cls: Any, folder: Path) -> dict[str, Tensor]:
    """Return names, shapes and types of the tensors of a network with this configuration."""
    path = folder / "config.json"
    config = read_json(path)
    if not isinstance(config, dict):
        raise UserError(f"{path}: is damaged, it holds {shown(config)}")
    told = ("auto_map",)  # for diffusers' `AutoModel`
    config = {k: v for k, v in config.items() if not k.startswith("_") and k not in told}
    _check_sizes(config, path)
    if cls.__module__.startswith("spikediff."):
        known = inspect.signature(cls.__init__).parameters
        unknown = [shown(key) for key in config if key not in known]
        if unknown:
            raise UserError(f"{path}: {cls.__name__} has no {', '.join(unknown[:8])}")
    try:
        return _without_memory(cls, json.dumps(config))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # whatever a constructor raises of a wrong value
        reason = cut(one_line(error)) or type(error).__name__
        raise UserError(f"{path}: makes no {cls.__name__} ({reason})") from error


@lru_cache(maxsize=16)  # loading a pipeline asks three times for each of its networks
def _without_memory(cls: Any, config: str) -> dict[str, Tensor]:
    with torch.device("meta"):
        model: nn.Module = cls.from_config(json.loads(config))
    return model.state_dict()


def _check_sizes(value: Any, path: Path, key: str = "") -> None:
    """Refuse absurd sizes before anything of that size is allocated."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            _check_sizes(part, path, name)
    elif isinstance(value, list):
        if len(value) > MOST_LAYERS:
            raise UserError(f"{path}: {key} has {len(value)} entries")
        for part in value:
            _check_sizes(part, path, key)
    elif isinstance(value, int | float):
        most = MOST_LAYERS if key == "layers_per_block" else _MOST
        if not -most <= value <= most:
            raise UserError(f"{path}: {key} = {shown(value)} is not a plausible size")


def _new_name(name: str, expected: Mapping[str, Tensor]) -> str:
    """Return a tensor's name; names of attention from earlier diffusers become today's."""
    if name in expected:
        return name
    return re.sub(
        r"\.(query|key|value|proj_attn)(?=\.(weight|bias)$)",
        lambda old: f".{_OLD_ATTENTION[old[1]]}",
        name,
    )


def _fits(kind: str, dtype: torch.dtype) -> bool:
    """Return whether a saved type may be read as a tensor's: any real one as a real one."""
    if dtype.is_floating_point:
        return kind in ("F64", "F32", "F16", "BF16")
    return kind == _KINDS.get(dtype)


_KINDS = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
}


def with_own_memory(model: nn.Module, dtype: Any) -> None:
    """Copy a loaded model's weights out of the file that they are mapped from, in place.

    Tensors in a file are not aligned, and the rounding of a matrix-vector product depends on the
    alignment of its memory: a loaded model would differ in the last bit from the saved one. The
    copy has the given `torch.dtype`, if it is one: without accelerate, diffusers keeps the file's
    type if its first tensor is an integer, such as a counter of batch norm.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        cast = isinstance(dtype, torch.dtype) and tensor.is_floating_point()
        tensor.data = tensor.data.to(dtype if cast else tensor.dtype, copy=True)


def quiet() -> None:
    """Silence diffusers' messages about loading; problems are errors here."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()


@runtime_checkable
class HasExecutions(Protocol):
    """A network with several executions that give the same bits; `config.execution` is its own."""

    config: Any
    device: torch.device

    def with_execution(self, execution: str) -> nn.Module:
        """Return the network with another execution."""


@runtime_checkable
class HasCounterpart(Protocol):
    """A spiking network that can build its ordinary counterpart."""

    def ann_counterpart(self) -> nn.Module:
        """Return the ordinary network of the same sizes, untrained."""


def ann_counterpart(model: Any) -> nn.Module:
    """Return the ordinary network of the same widths, depths and images, untrained."""
    if not isinstance(model, HasCounterpart):
        raise UserError(f"{type(model).__name__} has no ordinary counterpart to compare with")
    return model.ann_counterpart()


Forward = TypeVar("Forward", bound=Callable[..., Any])


def with_all_weights(forward: Forward) -> Forward:
    """Keep all weights of an offloaded network loaded during its `forward`.

    `enable_sequential_cpu_offload` loads the weights of a layer when the layer is called and
    unloads them afterwards; but here a layer reads the threshold of another one.
    """

    @wraps(forward)
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not hasattr(self, "_hf_hook"):  # accelerate's
            return forward(self, *args, **kwargs)
        with _all_there(self):
            return forward(self, *args, **kwargs)

    return call  # type: ignore[return-value]


@contextmanager
def _all_there(network: nn.Module) -> Iterator[None]:
    """Load the weights of all layers, and disable the hooks that would unload them."""
    layers: list[Any] = [
        layer for layer in network.modules() if layer is not network and hasattr(layer, "_hf_hook")
    ]
    hooked = [(layer, layer.forward) for layer in layers]
    for layer in layers:
        layer._hf_hook.pre_forward(layer)
        layer.forward = layer._old_forward
    try:
        yield
    finally:
        for layer, forward in hooked:
            layer.forward = forward
            layer._hf_hook.post_forward(layer, None)
