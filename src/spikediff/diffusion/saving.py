"""Saved pipelines: written and read completely, and readable by plain diffusers.

diffusers finds a pipeline or `AutoModel` of another library only through a code file beside the
weights, which `trust_remote_code=True` lets it run. Each of these files imports this package, and
nothing else in a folder is code. Our own pipelines run none of them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin

import spikediff
from spikediff.diffusion.model import WEIGHTS, check_saved
from spikediff.errors import UserError
from spikediff.files.writing import whole_folder


def component(name: object) -> type[Any] | None:
    """Return the network or scheduler of this library by name; None if there is none."""
    found = getattr(spikediff, str(name)) if name in spikediff.__all__ else None
    known = isinstance(found, type) and issubclass(found, ModelMixin | SchedulerMixin)
    return found if known else None


if not TYPE_CHECKING:  # which would hide a misspelt name

    def __getattr__(name: str) -> type[Any]:
        """Find a part by name, because diffusers also looks in the modules of its base classes."""
        found = component(name)
        if found is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return found


_OF_CONFIG = ("subfolder", "cache_dir", "force_download", "local_files_only", "token", "revision")


class AnyNetwork:
    """Loads a network of the class named by its configuration.

    A file beside every saved network imports it, for
    `AutoModel.from_pretrained(folder, subfolder="unet", trust_remote_code=True)`.
    """

    @classmethod
    def from_pretrained(cls, folder: str, **options: Any) -> ModelMixin:
        """Load a network as diffusers' `from_pretrained` does, from a folder or a repository."""
        where = {key: options[key] for key in _OF_CONFIG if options.get(key) is not None}
        name = spikediff.SpikingUNet.load_config(folder, **where).get("_class_name")
        network = component(name)
        if network is None:
            raise UserError(f"{folder}: {name!r} is not a network of spikediff")
        loaded: ModelMixin = network.from_pretrained(folder, **options)
        return loaded


INDEX = "model_index.json"
PIPELINES = (
    "SpikingDiffusionPipeline",
    "SynapticCurrentPipeline",
    "VQSpikingDiffusionPipeline",
    "VAEPipeline",
)
"""Classes that a saved pipeline is loaded as; the parts of any other go into the first."""

_PIPELINE_FILE = "pipeline"
# diffusers copies the files of all parts to one place. If their contents differed, Python could
# run the bytecode of one instead of another of the same length, copied within the same second.
_PART_CODE = '''"""Lets diffusers find the classes of the package spikediff."""


def __getattr__(name):
    import spikediff

    return getattr(spikediff, name)
'''
_PIPELINE_CODE = '''"""Lets diffusers find a class of the package spikediff."""

from spikediff import {name}

__all__ = ["{name}"]
'''


def check_networks(
    index: Mapping[str, Any],
    folder: Path,
    variant: str | None = None,
    only_safetensors: bool = False,
) -> None:
    """Refuse a saved pipeline whose networks would not load completely, and optionally pickles."""
    for name, entry in index.items():
        if name.startswith("_") or not isinstance(entry, list | tuple) or len(entry) != 2:
            continue
        library, class_name = map(str, entry)
        kind = component(class_name)
        if library == "diffusers":
            kind = getattr(diffusers, class_name, None)
        if not isinstance(kind, type) or not issubclass(kind, ModelMixin):
            continue
        if not (folder / name).is_dir():
            raise UserError(f"{folder / name}: missing; {INDEX} names it")
        if not check_saved(kind, folder / name, variant) and only_safetensors:
            weights = folder / name / f"{WEIGHTS}.safetensors"
            why = "weights are read from safetensors only"
            for other in weights.parent.glob(f"{WEIGHTS}.*.safetensors"):
                other_variant = other.name.split(".")[1].partition("-")[0]
                why = f"only from_pretrained(..., variant={other_variant!r}) reads {other.name}"
            raise UserError(f"{weights}: missing; {why}")


def save_whole(pipe: Any, folder: Path) -> None:
    """Save a pipeline so that its folder is complete, absent, or the previous one.

    A folder that already has the same files is left unchanged.
    """
    with whole_folder(folder) as draft:
        pipe.save_pretrained(draft)


def make_portable(folder: Path) -> None:
    """Let plain diffusers load a saved pipeline.

    Parts of this library are named by the top-level package, `["spikediff", "SpikingUNet"]`, and a
    file beside each of them finds it there.
    """
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    name = index["_class_name"]
    if isinstance(name, str):
        code = _PIPELINE_CODE.format(name=name)
        (folder / f"{_PIPELINE_FILE}.py").write_text(code, encoding="utf-8")
        index["_class_name"] = [_PIPELINE_FILE, name]
    for part, kind in _own_parts(index).items():
        index[part] = [spikediff.__name__, kind.__name__]
        if issubclass(kind, ModelMixin):
            index["auto_map"] = {"AutoModel": f"{spikediff.__name__}.{AnyNetwork.__name__}"}
            path = folder / part / "config.json"
            config = json.loads(path.read_text(encoding="utf-8"))
            _write_json(path, {**config, "auto_map": index["auto_map"]})
        code_file = folder / part / f"{spikediff.__name__}.py"
        code_file.write_text(_PART_CODE, encoding="utf-8")
    _write_json(folder / INDEX, index)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    path.write_text(text, encoding="utf-8")


def own_classes(index: Mapping[str, Any]) -> dict[str, Any]:
    """Return a `model_index.json` that names this module for the parts of this library.

    diffusers would run a part's file of code. Earlier versions named modules or files instead.
    """
    own = {part: [__name__, kind.__name__] for part, kind in _own_parts(index).items()}
    known = {k: v for k, v in {**index, **own}.items() if k != "auto_map"}
    return {**known, "_class_name": pipeline_class(known)} if "_class_name" in known else known


def _own_parts(index: Mapping[str, Any]) -> dict[str, type[Any]]:
    """Return the parts of this library, whichever module or file they are named by."""
    found = {
        part: component(entry[1])
        for part, entry in index.items()
        if not part.startswith("_")
        and isinstance(entry, list | tuple)
        and len(entry) == 2
        and str(entry[0]).startswith(spikediff.__name__)
    }
    return {part: kind for part, kind in found.items() if kind is not None}


def pipeline_class(index: Mapping[str, Any]) -> str | None:
    """Return the name of the pipeline's class in a `model_index.json`."""
    name = index.get("_class_name")
    return name[-1] if isinstance(name, list | tuple) else name
