"""Saved pipelines: whole when they are written and when they are read, and open to plain diffusers.

diffusers finds a pipeline or `AutoModel` of another library only through a file of code beside the
weights, which `trust_remote_code=True` lets it run. Such a file holds one import, and nothing else
in a folder is code. Our own pipelines run none of them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import diffusers
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from torch import nn

import spikediff
from spikediff.diffusion.exact_timesteps import exact
from spikediff.diffusion.model import WEIGHTS, check_saved, with_own_memory
from spikediff.errors import UserError, one_line
from spikediff.files.reading import read_json
from spikediff.files.tensors import check_finite
from spikediff.files.writing import whole_folder


def component(name: object) -> type[Any] | None:
    """Return the network or scheduler of this library by name; None where there is none."""
    found = getattr(spikediff, str(name)) if name in spikediff.__all__ else None
    known = isinstance(found, type) and issubclass(found, ModelMixin | SchedulerMixin)
    return found if known else None


if not TYPE_CHECKING:  # which would hide a misspelt name

    def __getattr__(name: str) -> type[Any]:
        """Find a part by name: diffusers looks where `ModelMixin` and `SchedulerMixin` are too."""
        found = component(name)
        if found is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return found


_OF_CONFIG = ("subfolder", "cache_dir", "force_download", "local_files_only", "token", "revision")


class AnyNetwork:
    """Loads a network of the class that its configuration names.

    A file beside every saved network imports it, for
    `AutoModel.from_pretrained(folder, subfolder="unet", trust_remote_code=True)`.
    """

    @classmethod
    def from_pretrained(cls, folder: str, **options: Any) -> ModelMixin:
        """Load a network as diffusers' `from_pretrained` does, from a folder or a repository.

        Raises:
            UserError: Its configuration names no network of this library.
        """
        where = {key: options[key] for key in _OF_CONFIG if options.get(key) is not None}
        name = spikediff.SpikingUNet.load_config(folder, **where).get("_class_name")
        network = component(name)
        if network is None:
            raise UserError(f"{folder}: {name!r} is no network of spikediff")
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
_DOWNLOADED = ("*.json", "*.safetensors")  # in any folder; no code
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision")


class PortablePipeline:
    """Saves with the files that plain diffusers needs, and loads without running them.

    It stands before `DiffusionPipeline` in the bases.

    Example:
        >>> import tempfile
        >>> from spikediff import VAE, VAEPipeline
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     VAEPipeline(VAE(8, 1, channels=(4, 8), latent_channels=6)).save_pretrained(folder)
        ...     print((Path(folder) / "pipeline.py").read_text())
        # Lets diffusers find a class of the package spikediff.
        from spikediff import VAEPipeline
        <BLANKLINE>
        __all__ = ["VAEPipeline"]
        <BLANKLINE>
    """

    components: dict[str, Any]

    def register_modules(self, **modules: Any) -> None:
        """Take the parts; see `exact` for samplers of diffusers."""
        super().register_modules(**{name: exact(part) for name, part in modules.items()})  # type: ignore[misc]

    def save_config(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Write `model_index.json`, and the files of code that it then names."""
        super().save_config(save_directory, *args, **kwargs)  # type: ignore[misc]
        if type(self).__module__.startswith("spikediff."):  # others cannot import a user's class
            make_portable(Path(save_directory))

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Save the pipeline as diffusers does.

        Raises:
            UserError: A weight or a buffer of a network is NaN or infinite, and nothing is written;
                or the disk is full.
        """
        for name, part in self.components.items():
            if isinstance(part, nn.Module):
                check_finite(part.state_dict(), f"{type(self).__name__}: {name} cannot be saved")
        try:
            super().save_pretrained(*args, **kwargs)  # type: ignore[misc]
        except SafetensorError as error:  # what safetensors makes of an OSError
            raise UserError(
                f"{type(self).__name__}: cannot be saved ({one_line(error)})"
            ) from error

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Load a pipeline as diffusers does, and its networks whole.

        Raises:
            UserError: A network has a file that is not all of it, or a weight that is not finite.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            folder = Path(cls.download(str(pretrained_model_name_or_path), **kwargs))
        if (folder / INDEX).is_file():
            content = read_json(folder / INDEX)
            index = dict(content) if isinstance(content, dict) else {}
            read = {name: entry for name, entry in index.items() if name not in kwargs}
            check_networks(read, folder, kwargs.get("variant"))
        pipe = super().from_pretrained(folder, **kwargs)  # type: ignore[misc]
        for name, part in pipe.components.items():
            if isinstance(part, nn.Module):
                with_own_memory(part, kwargs)  # diffusers' own networks leave theirs in the file
                check_finite(part.state_dict(), f"{folder}: {name}")
        return pipe

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """Read a configuration; see `own_classes`."""
        loaded = super().load_config(*args, **kwargs)  # type: ignore[misc]
        if isinstance(loaded, tuple):
            return (own_classes(loaded[0]), *loaded[1:])
        return own_classes(loaded)

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs: Any) -> str:
        """Download a repository's weights and configurations, and no code; return the folder.

        The arguments are those of `DiffusionPipeline.download`.
        """
        options = {key: kwargs[key] for key in _HUB_OPTIONS if kwargs.get(key) is not None}
        return cast(
            str,
            snapshot_download(pretrained_model_name, allow_patterns=list(_DOWNLOADED), **options),
        )


def check_networks(
    index: Mapping[str, Any],
    folder: Path,
    variant: str | None = None,
    only_safetensors: bool = False,
) -> None:
    """Refuse a saved pipeline whose networks would not be loaded whole.

    Args:
        index: Its `model_index.json`.
        folder: Its folder.
        variant: Of the weights' files.
        only_safetensors: Whether weights as pickles are refused.

    Raises:
        UserError: See `spikediff.diffusion.model.check_saved`.
    """
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
            raise UserError(f"{weights}: missing; weights are read from safetensors only")


def save_whole(pipe: Any, folder: Path) -> None:
    """Save a pipeline so that its folder is whole, or absent, or the one before.

    A folder that holds the same files already is left as it is.
    """
    with whole_folder(folder) as draft:
        pipe.save_pretrained(draft)


def make_portable(folder: Path) -> None:
    """Let plain diffusers load a saved pipeline.

    Parts of this library are named by the front door, `["spikediff", "SpikingUNet"]`, and a file
    beside each of them imports it from there.
    """
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    name = index["_class_name"]
    if isinstance(name, str):
        _write_import(folder / f"{_PIPELINE_FILE}.py", name)
        index["_class_name"] = [_PIPELINE_FILE, name]
    for part, kind in _own_parts(index).items():
        index[part] = [spikediff.__name__, kind.__name__]
        names = [kind.__name__]
        if issubclass(kind, ModelMixin):
            names.insert(0, AnyNetwork.__name__)
            index["auto_map"] = {"AutoModel": f"{spikediff.__name__}.{AnyNetwork.__name__}"}
            path = folder / part / "config.json"
            config = json.loads(path.read_text(encoding="utf-8"))
            _write_json(path, {**config, "auto_map": index["auto_map"]})
        _write_import(folder / part / f"{spikediff.__name__}.py", *names)
    _write_json(folder / INDEX, index)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    path.write_text(text, encoding="utf-8")


def _write_import(path: Path, *names: str) -> None:
    quoted = ", ".join(f'"{name}"' for name in names)
    path.write_text(
        "# Lets diffusers find a class of the package spikediff.\n"
        f"from spikediff import {', '.join(names)}\n\n__all__ = [{quoted}]\n",
        encoding="utf-8",
    )


def own_classes(index: Mapping[str, Any]) -> dict[str, Any]:
    """Return a `model_index.json` that names this module for the parts of this library.

    diffusers would run a part's file of code. Earlier versions named modules or files instead.

    Example:
        >>> index = {"_class_name": ["pipeline", "VAEPipeline"], "vae": ["spikediff_vae", "VAE"]}
        >>> own_classes(index)
        {'_class_name': 'VAEPipeline', 'vae': ['spikediff.diffusion.saving', 'VAE']}
    """
    own = {part: [__name__, kind.__name__] for part, kind in _own_parts(index).items()}
    known = {k: v for k, v in {**index, **own}.items() if k != "auto_map"}
    return {**known, "_class_name": pipeline_class(known)} if "_class_name" in known else known


def _own_parts(index: Mapping[str, Any]) -> dict[str, type[Any]]:
    """Return the parts of this library, whatever module or file is named for them."""
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
    """Return the name of the pipeline's class out of a `model_index.json`."""
    name = index.get("_class_name")
    return name[-1] if isinstance(name, list | tuple) else name
