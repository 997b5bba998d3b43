"""`spikediff evaluate` of the shipped MNIST network: the float network beside the deployed one.

CPU seconds of a fresh process: start, images, their features, metrics. The features of real images
come from the cache. `parts` are of one run under a profiler that counts CPU time.
"""

import contextlib
import cProfile
import io
import os
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from performance.settings import Settings
from performance.start_section import seconds_of_children
from performance.table import Group, Patience, times
from spikediff.cli import main

MODELS = {"float network": "mnist-float", "ours deployed": "mnist"}
IMAGES, CALLS = 500, 10
# What is told apart: the file and the function that does it.
PARTS = {
    "images": ("evaluation/sources.py", "make"),
    "resizing": ("evaluation/features/network.py", "prepare"),
    "features": ("evaluation/features/network.py", "__call__"),
    "metrics": ("evaluation/run.py", "compute_scores"),
}


def measure(settings: Settings) -> Iterator[Group]:
    """Measure both networks; nothing without data and feature weights."""
    if settings.data_dir is None or settings.feature_weights is None:
        print("\nevaluation: -- give --data-dir DIR and --feature-weights WEIGHTS")
        return
    images = 32 if settings.quick else IMAGES
    with tempfile.TemporaryDirectory() as folder:
        commands = {
            name: _command(model, images, settings.data_dir, settings.feature_weights, folder)
            for name, model in MODELS.items()
        }
        runs = {name: partial(_in_process, command) for name, command in commands.items()}
        title = f"{images} images, {CALLS} calls each"
        group = times("evaluation", title, runs, Patience(seconds_of_children, 5, budget=90))
        group.facts["parts"] = {name: _parts(command) for name, command in commands.items()}
    yield group


def _in_process(command: list[str]) -> None:
    with _anew(command) as whole:
        process = [sys.executable, "-m", "spikediff", *whole]
        subprocess.run(process, capture_output=True, check=True)


@contextlib.contextmanager
def _anew(command: list[str]) -> Iterator[list[str]]:
    """Give a command a work folder that holds no images of an earlier run."""
    with tempfile.TemporaryDirectory() as folder:
        yield [*command, f"--work-dir={folder}"]


def _command(model: str, images: int, data: Path, weights: Path, folder: str) -> list[str]:
    """Return the arguments of `spikediff`."""
    given = {
        "protocol": "fsddim",
        "features": "fad",
        "dataset": "mnist",
        "data-dir": data,
        "feature-weights": weights,
        "cache-dir": f"{folder}/cache",
        "num-samples": images,
        "num-inference-steps": CALLS,
        "batch-size": 250,
        "json": f"{folder}/{model}.json",
    }
    return ["evaluate", model, *(f"--{k}={v}" for k, v in given.items())]


def _parts(command: list[str]) -> dict[str, float]:
    """Return the CPU seconds of the parts of a command, run in this process."""
    profile = cProfile.Profile(time.process_time)
    said = io.StringIO()
    with (
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
        _anew(command) as whole,
    ):
        failed = profile.runcall(main, whole)
    if failed:
        raise RuntimeError(f"spikediff {' '.join(command)}: {said.getvalue()}")
    spent = dict.fromkeys(PARTS, 0.0)
    for (file, _, function), (*_, cumulative, _) in pstats.Stats(profile).stats.items():
        for part, (where, name) in PARTS.items():
            if function == name and file.replace(os.sep, "/").endswith(where):
                spent[part] += cumulative
    return spent
