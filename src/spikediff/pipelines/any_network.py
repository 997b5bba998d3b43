"""A network of this library of whatever class, for diffusers' `AutoModel`."""

from typing import Any

from diffusers.models.modeling_utils import ModelMixin

from spikediff.errors import UserError
from spikediff.pipelines.components import COMPONENTS

_OF_CONFIG = ("subfolder", "cache_dir", "force_download", "local_files_only", "token", "revision")


class AnyNetwork:
    """Loads a network of the class that its configuration names.

    Where a saved pipeline has several networks, a file beside each of them imports it, because the
    pipeline's `auto_map` has one name for all:
    `AutoModel.from_pretrained(folder, subfolder="unet", trust_remote_code=True)`.
    """

    @classmethod
    def from_pretrained(cls, folder: str, **options: Any) -> ModelMixin:
        """Load a network.

        Args:
            folder: A folder or a repository.
            options: Those of diffusers' `from_pretrained`.

        Raises:
            UserError: Its configuration names no network of this library.
        """
        network = COMPONENTS["SpikingUNet"]  # any of them reads a configuration
        where = {key: options[key] for key in _OF_CONFIG if options.get(key) is not None}
        name = network.load_config(folder, **where).get("_class_name")
        if name not in COMPONENTS:
            raise UserError(f"{folder}: {name!r} is no network of spikediff")
        loaded: ModelMixin = COMPONENTS[name].from_pretrained(folder, **options)
        return loaded
