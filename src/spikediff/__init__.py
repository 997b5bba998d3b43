"""spikediff: train, convert, sample, measure and export spiking diffusion models.

    import spikediff as sd

    pipe = sd.load("mnist")
    images = pipe(seeds=range(64)).images

The names are those of `__init__.pyi`; each is imported when it is first used, so importing the
package loads nothing heavy.
"""

import ast
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.1.0"


def _addresses() -> dict[str, str]:
    """Return the module of every public name, as the stub beside this file has it."""
    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [statement for statement in stub.body if isinstance(statement, ast.ImportFrom)]
    return {part.name: str(line.module) for line in imports for part in line.names}


_MODULES = _addresses()
__all__ = ["__version__", *_MODULES]


# Folders saved by version 0.1.0 import their classes from these modules.
for _earlier in ("models", "pipelines", "schedulers"):
    sys.modules[f"{__name__}.{_earlier}"] = sys.modules[__name__]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'spikediff' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
