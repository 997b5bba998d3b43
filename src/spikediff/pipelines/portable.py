"""A saved pipeline that plain diffusers loads too, for whoever does not import this library.

diffusers finds a class of another library only through a file of code beside the weights, which it
runs where `trust_remote_code=True` allows it. So a saved folder has `pipeline.py`, and in the
folder of every part of this library a file of one import; nothing else in a folder is code, and
`model_index.json` names the files. Our own pipelines know their parts and run none of them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import diffusers
from diffusers.models.modeling_utils import ModelMixin
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from torch import nn

from spikediff.errors import UserError, one_line
from spikediff.finite import check_finite
from spikediff.models.loading import WEIGHTS, check_saved
from spikediff.pipelines.components import COMPONENTS
from spikediff.reading import read_json
from spikediff.schedulers.exact_timesteps import exact
from spikediff.whole import flush, put_in_place, remove, unfinished

INDEX = "model_index.json"
_ROOM = "spikediff."
_PIPELINE_FILE = "pipeline"
_NETWORK_FILE = "spikediff_network"
_DOWNLOADED = ("*.json", "*.safetensors")  # in any folder; no code
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision")


class PortablePipeline:
    """Saves with the files that plain diffusers needs, and loads without running them.

    It stands before `DiffusionPipeline` in the bases.

    Example:
        >>> import tempfile
        >>> from spikediff.models import VAE
        >>> from spikediff.pipelines import VAEPipeline
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     VAEPipeline(VAE(8, 1, channels=(4, 8), latent_channels=6)).save_pretrained(folder)
        ...     print((Path(folder) / "pipeline.py").read_text())
        # Lets diffusers find a class of the package spikediff.
        from spikediff.pipelines import VAEPipeline
        <BLANKLINE>
        __all__ = ["VAEPipeline"]
        <BLANKLINE>
    """

    components: dict[str, Any]

    def register_modules(self, **modules: Any) -> None:
        """Take the parts; a sampler of diffusers makes exactly the steps that are asked for."""
        super().register_modules(**{name: exact(part) for name, part in modules.items()})  # type: ignore[misc]

    def save_config(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Write `model_index.json`, and the files of code that it then names."""
        super().save_config(save_directory, *args, **kwargs)  # type: ignore[misc]
        if type(self).__module__.startswith(_ROOM):  # nobody else can import a user's own class
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
                check_finite(part.state_dict(), f"{folder}: {name}")
        return pipe

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """Read a configuration; parts of this library bear the names of their modules again."""
        loaded = super().load_config(*args, **kwargs)  # type: ignore[misc]
        if isinstance(loaded, tuple):
            return (own_classes(loaded[0]), *loaded[1:])
        return own_classes(loaded)

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs: Any) -> str:
        """Download a repository's weights and configurations, and no code.

        Args:
            pretrained_model_name: USER/NAME on the Hugging Face Hub.
            kwargs: Those of `DiffusionPipeline.download` that say from where and how.

        Returns:
            The folder.
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
        UserError: See `spikediff.models.loading.check_saved`.
    """
    for name, entry in index.items():
        if name.startswith("_") or not isinstance(entry, list | tuple) or len(entry) != 2:
            continue
        library, class_name = map(str, entry)
        kind = COMPONENTS.get(class_name)
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
    """Save a pipeline so that its folder is there and whole, or not there, or the one before.

    Args:
        pipe: The pipeline.
        folder: Its folder. One that holds the same files already is left as it is, with what else
            lies there.

    Raises:
        UserError: A weight is NaN or infinite.
    """
    draft = unfinished(folder)
    remove(draft)
    pipe.save_pretrained(draft)
    files = [path for path in sorted(draft.rglob("*")) if path.is_file()]
    if all(_same(path, folder / path.relative_to(draft)) for path in files):
        remove(draft)
        return
    for path in (*files, *{path.parent for path in files}):
        flush(path)
    put_in_place(draft, folder)


def _same(one: Path, two: Path) -> bool:
    return two.is_file() and one.read_bytes() == two.read_bytes()


def make_portable(folder: Path) -> None:
    """Write the files of code that let plain diffusers load a saved pipeline.

    Args:
        folder: The pipeline's folder, with its `model_index.json`.
    """
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    name = index["_class_name"]
    if isinstance(name, str):
        _write_import(folder / f"{_PIPELINE_FILE}.py", "pipelines", name)
        index["_class_name"] = [_PIPELINE_FILE, name]
    for part, (module, class_name) in _own_parts(index).items():
        file = module.replace(".", "_")
        room = COMPONENTS[class_name].__module__.split(".")[1]
        _write_import(folder / part / f"{file}.py", room, class_name)
        index[part] = [file, class_name]
    _tell_auto_model(folder, index)
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    (folder / INDEX).write_text(text, encoding="utf-8")


def _tell_auto_model(folder: Path, index: dict[str, Any]) -> None:
    """Name the networks for diffusers' `AutoModel`, in their configurations and in the index."""
    parts = [
        (part, index[part])
        for part, (_, class_name) in _own_parts(index).items()
        if issubclass(COMPONENTS[class_name], ModelMixin)
    ]
    for part, (file, class_name) in parts:
        path = folder / part / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config["auto_map"] = {"AutoModel": f"{file}.{class_name}"}
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        path.write_text(text, encoding="utf-8")
        index["auto_map"] = config["auto_map"]
    if len(parts) > 1:  # the index has one name for all of them
        index["auto_map"] = {"AutoModel": f"{_NETWORK_FILE}.AnyNetwork"}
        for part, _ in parts:
            path = folder / part / f"{_NETWORK_FILE}.py"
            _write_import(path, "pipelines.any_network", "AnyNetwork")


def _write_import(path: Path, room: str, class_name: str) -> None:
    path.write_text(
        "# Lets diffusers find a class of the package spikediff.\n"
        f"from spikediff.{room} import {class_name}\n\n"
        f'__all__ = ["{class_name}"]\n',
        encoding="utf-8",
    )


def own_classes(index: Mapping[str, Any]) -> dict[str, Any]:
    """Return a `model_index.json` in which the parts of this library name its modules.

    Args:
        index: Its content, from this or an earlier version of the library.

    Example:
        >>> index = {"_class_name": ["pipeline", "VAEPipeline"], "vae": ["spikediff_vae", "VAE"]}
        >>> own_classes(index)
        {'_class_name': 'VAEPipeline', 'vae': ['spikediff.models.vae', 'VAE']}
    """
    modules = {
        part: [COMPONENTS[class_name].__module__, class_name]
        for part, (_, class_name) in _own_parts(index).items()
    }
    known = {k: v for k, v in {**index, **modules}.items() if k != "auto_map"}
    return {**known, "_class_name": pipeline_class(known)} if "_class_name" in known else known


def _own_parts(index: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return the parts of this library: the module or file that is named, and the class."""
    return {
        part: (entry[0], entry[1])
        for part, entry in index.items()
        if not part.startswith("_")
        and isinstance(entry, list | tuple)
        and len(entry) == 2
        and str(entry[0]).startswith(_ROOM.rstrip("."))
        and entry[1] in COMPONENTS
    }


def pipeline_class(index: Mapping[str, Any]) -> str | None:
    """Return the name of the pipeline's class out of a `model_index.json`."""
    name = index.get("_class_name")
    return name[-1] if isinstance(name, list | tuple) else name
