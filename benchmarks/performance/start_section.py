"""What a command costs before its first network call: the CPU time of a fresh process."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial

from performance.settings import Settings
from performance.table import Group, Patience, times

_IMAGES = ["sample", "mnist", "--class-labels", "3", "1", "4", "--num-inference-steps", "10"]
_INTO = ["--overwrite", "--output"]


def measure(settings: Settings) -> Iterator[Group]:
    """Measure three images of the shipped model beside the imports of a plain diffusers script."""
    python = [sys.executable, "-c"]
    with tempfile.TemporaryDirectory() as folder:
        commands = {
            "import DiffusionPipeline": [*python, "from diffusers import DiffusionPipeline"],
            "import torch": [*python, "import torch"],
            "spikediff --help": [sys.executable, "-m", "spikediff", "--help"],
            "spikediff sample": [sys.executable, "-m", "spikediff", *_IMAGES, *_INTO, folder],
        }
        runs = {
            name: partial(subprocess.run, command, capture_output=True, check=True)
            for name, command in commands.items()
        }
        rounds = 3 if settings.quick else 7
        patience = Patience(seconds_of_children, rounds, budget=60)
        yield times("start", "three images, 10 steps", runs, patience)


def seconds_of_children() -> float:
    """Return the CPU time of all processes that were started and have ended."""
    used = os.times()
    return used.children_user + used.children_system
