"""The folder of a run: what is in it, and who may write to it."""

import json
import os
import platform
import shutil
import subprocess
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from spikediff.errors import UserError
from spikediff.training.recipe import Recipe, load_recipe, save_recipe

_PACKAGES = ("spikediff", "torch", "diffusers", "accelerate", "safetensors", "numpy", "pillow")


class RunFolder:
    """Paths of a run: recipe, environment, samples, checkpoints, the pipeline and pictures.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.recipe = root / "recipe.yaml"
        self.environment = root / "environment.json"
        self.samples = root / "samples"
        self.checkpoints = root / "checkpoints"
        self.pipeline = root / "pipeline"
        self.temporal_scaling = root / "temporal_scaling.png"

    def open(self, recipe: Recipe, resume: bool, overwrite: bool) -> None:
        """Make the folder and write down the recipe and the environment.

        Args:
            recipe: The resolved recipe.
            resume: Go on with the run that is there.
            overwrite: Delete the run that is there.

        Raises:
            UserError: A run is there and neither is asked for; nothing is there to resume; the
                run there trains another model; or the folder holds something else.
        """
        if resume:
            self._check_resumable(recipe)
        elif self.root.exists() and any(self.root.iterdir()):
            if not self.recipe.is_file():
                raise UserError(f"{self.root}: is no run folder and not empty; choose another")
            if not overwrite:
                raise UserError(f"{self.root}: holds a run; use --resume or --overwrite")
            shutil.rmtree(self.root)
        self.samples.mkdir(parents=True, exist_ok=True)
        save_recipe(recipe, self.recipe)
        self.environment.write_text(json.dumps(environment(recipe.seed), indent=1) + "\n")

    def resumed(self, recipe: Recipe) -> Recipe:
        """Return the recipe with what the run there started from, which need not be told again.

        Args:
            recipe: The recipe to resume with.

        Raises:
            UserError: It names another start than the run there had.
        """
        if not self.recipe.is_file():
            return recipe
        recorded = load_recipe(self.recipe).init_from
        if recipe.init_from is not None and recipe.init_from != recorded:
            raise UserError(
                f"{self.root}: holds a run that started from {recorded or 'random weights'}; "
                f"--resume takes no other --init-from"
            )
        return replace(recipe, init_from=recorded)

    def _check_resumable(self, recipe: Recipe) -> None:
        if not self.recipe.is_file():
            raise UserError(f"{self.root}: no run to resume (it has no recipe.yaml)")
        before = load_recipe(self.recipe)
        for part in ("model", "diffusion", "loss"):
            old, new = vars(getattr(before, part)), vars(getattr(recipe, part))
            for key in old:
                if old[key] != new[key]:
                    raise UserError(
                        f"{self.root}: holds a run of another model: {part}.{key} is {old[key]} "
                        f"there and {new[key]} in the recipe; choose another folder"
                    )
        if before.seed != recipe.seed or before.data.batch_size != recipe.data.batch_size:
            raise UserError(
                f"{self.root}: cannot resume with another seed or data.batch_size, which decide "
                f"the order of the data; choose another folder"
            )


def environment(seed: int) -> dict[str, Any]:
    """Return what else decides the numbers of a run: versions, commit, machine."""
    return {
        "seed": seed,
        "git_commit": _git("rev-parse", "HEAD"),
        "git_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Return what git says of the checkout that this code runs from; None outside one."""
    here = Path(__file__).parent
    try:
        run = subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip() or None
