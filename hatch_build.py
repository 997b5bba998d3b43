"""Compile the C kernels into the wheel; the package is complete without them, only slower."""

import importlib.util
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = Path("src/spikediff/native")


class NativeKernels(BuildHookInterface):
    """Runs for a wheel and for an editable install, where the libraries lie in the source tree."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build, and mark the wheel as one for this platform if something came out."""
        folder = Path(self.root) / NATIVE
        spec = importlib.util.spec_from_file_location("native_build", folder / "build.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        libraries = module.build(folder)
        if libraries:
            build_data["artifacts"] += [str(path.relative_to(self.root)) for path in libraries]
            build_data["pure_python"] = False
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{platform}"
