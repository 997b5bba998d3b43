"""The folder of a run: its files, and who may write to it."""

import glob
import json
import logging
import os
import platform
import subprocess
from dataclasses import replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from spikediff.errors import UserError
from spikediff.files.reading import read_json, read_text
from spikediff.files.writing import FolderLock, leftovers, remove, remove_folder, write_if_changed
from spikediff.training.checkpoint import settle
from spikediff.training.recipe import (
    Recipe,
    load_recipe,
    load_run_recipe,
    recipe_text,
    save_recipe,
    with_shape_of,
)
from spikediff.training.resuming import check_same_run

_log = logging.getLogger("spikediff")
# Files of a run, as patterns of their paths within it.
_OWN_FILES = (
    "recipe.yaml",
    "environment.json",
    "loss.csv",
    "loss.png",
    "temporal_scaling.png",
    "tokens.safetensors",
    ".lock",
    # written by `spikediff demo`, now and in version 0.1.0
    *("mnist.png", "mnist.gif", "digits.png", "digits_and_nearest.png", "denoising.gif"),
    "samples/step-*.png",
    "samples/.unfinished-step-*.png",
    *(f"checkpoints/*step-*/{name}" for name in ("*.json", "*.safetensors")),
    *(f"pipeline/{name}" for name in ("*.json", "*.py")),
    *(f"pipeline/*/{name}" for name in ("*.json", "*.py", "*.safetensors")),
)
# TensorBoard's files, in the folder `_tracked`.
_TRACKED = ("events.out.tfevents.*", "*/events.out.tfevents.*", "*/hparams.yml")
_PACKAGES = ("spikediff", "torch", "diffusers", "accelerate", "safetensors", "numpy", "pillow")


class RunFolder:
    """The paths of a run, and its ownership.

    One process owns a run, from `claim` until `release` or until it exits; others may read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.recipe = root / "recipe.yaml"
        self.environment = root / "environment.json"
        self.samples = root / "samples"
        self.checkpoints = root / "checkpoints"
        self.pipeline = root / "pipeline"
        self.temporal_scaling = root / "temporal_scaling.png"
        self._lock: FolderLock | None = None

    def claim(self, recipe: Recipe, resume: bool, overwrite: bool) -> None:
        """Take ownership of an existing folder without changing it.

        For `resume` the folder must hold the same run, for `overwrite` only a run's own files;
        otherwise it must be empty. No other process may be training in it.
        """
        if self.root.is_dir():
            self._own()
        if resume:
            self._check_resumable(recipe)
        elif overwrite and self.recipe.is_file():
            self._check_removable()
        elif self.recipe.is_file():
            raise UserError(f"{self.root}: contains a run; use --resume or --overwrite")
        elif self.root.exists() and not self._is_as_good_as_empty():
            raise UserError(f"{self.root}: is not a run folder and not empty; choose another")

    def _own(self) -> None:
        if self._lock is not None:
            return
        try:
            self._lock = FolderLock(self.root)
        except BlockingIOError:
            raise UserError(
                f"{self.root}: is being trained by another process; wait for its end, or choose "
                f"another folder"
            ) from None

    def _check_resumable(self, recipe: Recipe) -> None:
        if not self.recipe.is_file():
            if self.root.is_dir() and self._is_as_good_as_empty():
                return
            raise UserError(f"{self.root}: no run to resume (it has no recipe.yaml)")
        if (self.root / "model_index.json").is_file():
            raise UserError(f"{self.root}: contains a saved pipeline, not a run; choose another")
        check_same_run(self.root, load_run_recipe(self.root), recipe)

    def _is_as_good_as_empty(self) -> bool:
        """Return whether the folder holds only the leftovers of a run killed before its recipe."""
        empty = {self.samples, self.checkpoints}
        for path in self.root.iterdir():
            if path not in leftovers(self.root) and not (path in empty and not any(path.iterdir())):
                return False
        return True

    def _check_removable(self) -> None:
        """Refuse to overwrite a folder that is not a run, or foreign files in one."""
        text = read_text(self.recipe)
        if not self.environment.is_file() and text != recipe_text(load_recipe(self.recipe)):
            raise UserError(f"{self.root}: is not a run folder (its recipe.yaml is none of a run)")
        load_run_recipe(self.root)
        tracked = glob.escape(self._tracked().name)
        patterns = [*_OWN_FILES, *(f"{tracked}/{pattern}" for pattern in _TRACKED)]
        left = {path.name for path in leftovers(self.root)}
        found = [
            path.relative_to(self.root)
            for path in sorted(self.root.rglob("*"))
            if path.is_symlink() or not path.is_dir()
        ]
        foreign = [
            path.as_posix()
            for path in found
            if path.parts[0] not in left and not any(_fits(path, pattern) for pattern in patterns)
        ]
        if foreign:
            shown = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
            raise UserError(
                f"{self.root}: --overwrite removes only a run's own files, and {len(foreign)} "
                f"others lie there: {shown}; move them, or choose another folder"
            )

    def open(self, recipe: Recipe, resume: bool, overwrite: bool) -> None:
        """Create the folder if needed and `claim` it; write the recipe and the environment.

        Unfinished files of a killed run are adopted or removed.
        """
        self.claim(recipe, resume, overwrite)
        if self._lock is None:
            self.root.mkdir(parents=True, exist_ok=True)
            self.claim(recipe, resume, overwrite)  # another process may have been faster
        if overwrite and self.recipe.is_file():
            self._remove_run()
        save_recipe(recipe, self.recipe)  # first: a folder with a recipe can be resumed
        here = environment(recipe.seed)
        if resume:
            self._warn_of_other_rounding(here)
        write_if_changed(self.environment, json.dumps(here, indent=1) + "\n")
        self.samples.mkdir(exist_ok=True)
        settle(self.checkpoints)
        for left in (*leftovers(self.root), *leftovers(self.samples)):
            remove(left)

    def _remove_run(self) -> None:
        """Remove all files except the two that mark a run folder; those are rewritten."""
        for folder in (self.checkpoints, self.pipeline, self.samples, self._tracked()):
            if folder.is_dir():
                remove_folder(folder)
        for pattern in _OWN_FILES:
            path = self.root / pattern
            if path.is_file() and path not in (self.recipe, self.environment):
                remove(path)

    def _tracked(self) -> Path:
        return self.root / self.root.resolve().name  # where `Tracking` lets accelerate write

    def _warn_of_other_rounding(self, here: dict[str, Any]) -> None:
        """Warn if this machine may round differently from the previous one."""
        try:
            there = read_json(self.environment)
        except UserError:
            return  # it is rewritten
        known = there.get("rounding", {}) if isinstance(there, dict) else {}
        warned = [
            f"{key} was {known[key]} and is {value}"
            for key, value in here["rounding"].items()
            if isinstance(known, dict) and known.get(key, value) != value
        ]
        if warned:
            _log.warning("%s: continues with other rounding: %s", self.root, "; ".join(warned))

    def release(self) -> None:
        """Give up ownership of the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def resumed(self, recipe: Recipe) -> Recipe:
        """Return the recipe with the run's `init_from` and the size and channels of its images."""
        recorded = load_run_recipe(self.root)
        if recipe.init_from is not None and recipe.init_from != recorded.init_from:
            raise UserError(
                f"{self.root}: holds a run that started from "
                f"{recorded.init_from or 'random weights'}; "
                "--resume does not take another --init-from"
            )
        return replace(with_shape_of(recipe, recorded), init_from=recorded.init_from)


def _fits(path: Path, pattern: str) -> bool:
    """Return whether a pattern matches the entire relative path, not only its end."""
    return len(path.parts) == len(Path(pattern).parts) and path.match(pattern)


def environment(seed: int) -> dict[str, Any]:
    """Return further facts that affect a run's numbers: versions, commit, machine."""
    return {
        "seed": seed,
        "git_commit": _git("rev-parse", "HEAD"),
        "git_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "rounding": {
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "processes": int(os.environ.get("WORLD_SIZE", "1")),
            "processor": platform.machine(),
        },
        "packages": {name: _version(name) for name in _PACKAGES},
    }


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache  # the code of this process was read once
def _git(*arguments: str) -> str | None:
    """Return the output of git for the checkout of this code; None if it is not in one."""
    here = Path(__file__).parent
    try:
        run = subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip() or None
