"""What the build adds: compiled kernels in the wheel, addresses in the metadata.

The package is complete without the kernels, only slower.
"""

import importlib.util
import os
import re
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

NATIVE = Path("src/spikediff/native")


class NativeKernels(BuildHookInterface):
    """Runs for a wheel and for an editable install, where the libraries lie in the source tree."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build, and mark the wheel as one for this platform if something came out.

        cibuildwheel makes one wheel for each platform, so there every wheel is marked.
        """
        folder = Path(self.root) / NATIVE
        spec = importlib.util.spec_from_file_location("native_build", folder / "build.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        libraries = module.build(folder)
        build_data["artifacts"] += [str(path.relative_to(self.root)) for path in libraries]
        if libraries or "CIBUILDWHEEL" in os.environ:
            build_data["pure_python"] = False
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{platform}"


class Addresses(MetadataHookInterface):
    """The readme, and the project's addresses where the repository is known.

    GitHub Actions sets `GITHUB_SERVER_URL`, `GITHUB_REPOSITORY` and `GITHUB_SHA`. With them the
    relative links and images of README.md become absolute, so that an index can show them, and
    every path of `[tool.hatch.metadata.hooks.custom.urls]` becomes a project URL.
    """

    def update(self, metadata: dict[str, Any]) -> None:
        """Add `readme` and `urls`."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        repository = os.environ.get("GITHUB_REPOSITORY")
        metadata["urls"] = {}
        if repository:
            server = os.environ.get("GITHUB_SERVER_URL", "https://github.com")
            address, commit = f"{server}/{repository}", os.environ.get("GITHUB_SHA", "HEAD")
            paths = self.config["urls"]
            metadata["urls"] = {
                name: f"{address}/{path}".rstrip("/") for name, path in paths.items()
            }
            text = absolute_links(text, address, commit)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def absolute_links(text: str, address: str, commit: str) -> str:
    """Return Markdown whose relative links and images lead to a repository on GitHub.

    Args:
        text: Markdown; images may be `<img src="...">`.
        address: The repository's address.
        commit: A commit, branch or tag.
    """
    relative = r"(?!#|/|[a-z]+:)"
    text = re.sub(rf'(<img [^>]*src="){relative}', rf"\1{address}/raw/{commit}/", text)
    text = re.sub(rf"(!\[[^\]]*\]\(){relative}", rf"\1{address}/raw/{commit}/", text)
    return re.sub(rf"((?<!!)\[[^\]]*\]\(){relative}", rf"\1{address}/blob/{commit}/", text)
