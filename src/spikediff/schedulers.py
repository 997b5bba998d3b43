"""An earlier address of the front door: folders saved by version 0.1.0 import from here."""

from typing import Any

import spikediff


def __getattr__(name: str) -> Any:
    return getattr(spikediff, name)
