"""The base of every pipeline, and the identity of the weights behind a result."""

from contextlib import suppress
from pathlib import Path
from typing import Any, Self, cast

from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SCHEDULER_CONFIG_NAME
from huggingface_hub import snapshot_download
from safetensors import SafetensorError

from spikediff.diffusion.exact_timesteps import exact
from spikediff.diffusion.loop import check_settings, networks_of
from spikediff.diffusion.model import SpikingModel, with_own_memory
from spikediff.diffusion.saving import INDEX, check_networks, make_portable, own_classes
from spikediff.diffusion.schedulers import MOST_TIMESTEPS
from spikediff.errors import UserError, kind_of, one_line, shown, suggestion
from spikediff.events import Precision, compile_for_inference
from spikediff.files.reading import read_json
from spikediff.files.tensors import check_finite, state_digest

_DOWNLOADED = ("*.json", "*.safetensors")  # in any folder; no code
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision")


def weights_sha256(pipe: Any) -> str:
    """Return the SHA-256 of the weights of all networks of a pipeline."""
    networks = networks_of(pipe).items()
    return state_digest({f"{k}.{n}": x for k, m in networks for n, x in m.state_dict().items()})


def scheduler_name(pipe: Any) -> str | None:
    """Return the class of a pipeline's scheduler; None without a scheduler."""
    scheduler = pipe.components.get("scheduler")
    return None if scheduler is None else type(scheduler).__name__


def _check_scheduler(path: Path) -> None:
    """Refuse a scheduler's absurd numbers before tables of that size are made."""
    config = read_json(path) if path.is_file() else None
    for key, value in config.items() if isinstance(config, dict) else ():
        if isinstance(value, int) and value > MOST_TIMESTEPS:
            raise UserError(f"{path}: {key} = {shown(value)} must be at most {MOST_TIMESTEPS:,}")


class OwnPipeline(DiffusionPipeline):
    """A diffusers pipeline that loads anywhere, can share parts, and can be compiled."""

    components: dict[str, Any]

    def register_modules(self, **modules: Any) -> None:
        """Register the parts; see `exact` for samplers of diffusers."""
        super().register_modules(**{name: exact(part) for name, part in modules.items()})

    def save_config(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Write `model_index.json`, and the code files that it names."""
        super().save_config(save_directory, *args, **kwargs)
        if type(self).__module__.startswith("spikediff."):  # others cannot import a user's class
            make_portable(Path(save_directory))

    @classmethod
    def from_pipe(cls, pipeline: Any, **parts: Any) -> Self:
        """Return a pipeline that shares the parts of another one; `parts` replace them."""
        needed, optional = cls._get_signature_keys(cls)
        known = [*needed, *optional]
        for name in parts:
            if name not in known:
                raise UserError(f"{cls.__name__}: has no {name!r}; {suggestion(name, known)}")
        # The configuration has all that is not a part, such as the range of signals.
        settings = {name: pipeline.config[name] for name in optional if name in pipeline.config}
        found = {**settings, **pipeline.components, **parts}
        if missing := sorted(set(needed) - set(found)):
            raise UserError(
                f"{cls.__name__}: {kind_of(pipeline)} has no {' and no '.join(missing)}"
            )
        return cls(**{name: found[name] for name in known if name in found})

    @property
    def event_driven(self) -> bool:
        """Whether a network of the pipeline is in its event-driven form."""
        return any(getattr(part, "event_driven", False) for part in self.components.values())

    @property
    def event_weights(self) -> Precision | None:
        """Precision of the rounded synaptic weights; None without rounding."""
        found = (getattr(part, "event_weights", None) for part in self.components.values())
        return next((precision for precision in found if precision), None)

    def compile_for_inference(self, weights: Precision = "float32") -> Self:
        """Replace the networks by copies in event-driven form; return the pipeline itself.

        Rounding differs, which may change a seed's image; the deployment form of an integer
        network gives the same bits.

        Args:
            weights: "float32", or rounded to integers: "int16", "int8".
        """
        compiled = {k: compile_for_inference(m, weights) for k, m in networks_of(self).items()}
        for name, network in compiled.items():
            setattr(self, name, network)
        return self

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save the pipeline as diffusers does.

        Raises:
            UserError: It is compiled; a weight or a buffer of a network is NaN or infinite, and
                nothing is written; or the disk is full.
        """
        name = type(self).__name__
        if self.event_driven:
            raise UserError(f"{name}: compiled for inference; save the pipeline before that")
        for part, network in networks_of(self).items():
            check_finite(network.state_dict(), f"{name}: {part} cannot be saved")
        try:
            super().save_pretrained(save_directory, *args, **kwargs)
        except SafetensorError as error:  # what safetensors makes of an OSError
            raise UserError(f"{name}: cannot be saved ({one_line(error)})") from error
        folder = Path(save_directory)
        for part in networks_of(self):  # safetensors lets only the owner read its files
            for path in (folder / part).glob("*.safetensors"):
                with suppress(OSError):  # a file system without modes
                    path.chmod((folder / INDEX).stat().st_mode)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Load a pipeline as diffusers does, with complete networks.

        Raises:
            UserError: A network's file is incomplete, a weight is not finite, or the scheduler's
                settings allow no sampling.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            folder = Path(cls.download(str(pretrained_model_name_or_path), **kwargs))
        if (folder / INDEX).is_file():
            content = read_json(folder / INDEX)
            index = dict(content) if isinstance(content, dict) else {}
            read = {name: entry for name, entry in index.items() if name not in kwargs}
            check_networks(read, folder, kwargs.get("variant"))
            _check_scheduler(folder / "scheduler" / SCHEDULER_CONFIG_NAME)
        pipe = super().from_pretrained(folder, **kwargs)
        if "scheduler" in pipe.components and "scheduler" not in kwargs:
            check_settings(pipe.scheduler, folder / "scheduler" / SCHEDULER_CONFIG_NAME)
        dtype = kwargs.get("dtype") or kwargs.get("torch_dtype")
        for name, network in networks_of(pipe).items():
            if name in kwargs or isinstance(network, SpikingModel):
                continue  # given by the caller, or copied and checked already
            own = dtype.get(name, dtype.get("default")) if isinstance(dtype, dict) else dtype
            with_own_memory(network, own)  # diffusers' own networks leave theirs in the file
            check_finite(network.state_dict(), f"{folder}: {name}")
        return pipe

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """Read a configuration; see `own_classes`."""
        loaded = super().load_config(*args, **kwargs)
        if isinstance(loaded, tuple):
            return (own_classes(loaded[0]), *loaded[1:])
        return own_classes(loaded)

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs: Any) -> str:
        """Download a repository's weights and configurations, but no code; return the folder."""
        options = {key: kwargs[key] for key in _HUB_OPTIONS if kwargs.get(key) is not None}
        return cast(
            str,
            snapshot_download(pretrained_model_name, allow_patterns=list(_DOWNLOADED), **options),
        )
