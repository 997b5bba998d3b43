"""What a network of this library remembers of how it was made."""

from collections.abc import Mapping
from typing import Any

from diffusers.configuration_utils import ConfigMixin


class OwnConfig(ConfigMixin):
    """diffusers' configuration, of which `from_config` takes every value.

    diffusers forgets in `from_config` the values of arguments that were not given by name, even if
    they were given by position, as in `SpikingUNet(8, 1)`.
    """

    def register_to_config(self, **settings: Any) -> None:
        """Set settings; none of them is noted as a default."""
        settings.pop("_use_default_values", None)
        super().register_to_config(**settings)

    @classmethod
    def extract_init_dict(cls, config_dict: Mapping[str, Any], **settings: Any) -> Any:
        """Return the arguments of a configuration, without what it tells `AutoModel`."""
        kept = {key: value for key, value in config_dict.items() if key != "auto_map"}
        return super().extract_init_dict(kept, **settings)
