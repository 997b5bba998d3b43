"""No command leaves whoever waits for it in silence for more than five seconds, in a log too."""

import os
import subprocess
import sys
import time

import pytest

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
GRID = ["--sampling.num-images", "64", "--sampling.num-inference-steps", "100"]
COMMANDS = {
    "train": ["train", "sddpm/digits", "--training.steps", "30", *GRID, "--output", "{out}"],
    "sample": ["sample", "digits", "--num-images", "64", "--output", "{out}"],
    "inspect": ["inspect", "digits", "--num-images", "1", "--output", "{out}"],
    "calibrate": ["calibrate", "digits", "--num-images", "64"],
    "evaluate": ["evaluate", "digits", "--num-samples", "32", "--cache-dir", "{out}"],
    "energy": ["energy", "digits", "--num-images", "16", "--num-inference-steps", "20"],
    "compare": ["compare", "digits", "--no-quality", "--num-inference-steps", "50"],
    "export": [
        "export",
        "digits",
        "--format",
        "torch",
        "--batch-size",
        "1",
        "--output",
        "{out}.pt2",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_no_command_is_silent_for_five_seconds(command, tmp_path):
    arguments = [part.format(out=tmp_path / "out") for part in command]
    running = subprocess.Popen(
        [sys.executable, "-m", "spikediff", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=ENVIRONMENT | {"SPIKEDIFF_CACHE": str(tmp_path / "cache")},
    )
    longest, last, said = 0.0, time.monotonic(), b""
    while part := os.read(running.stdout.fileno(), 65_536):
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
        said += part
    assert running.wait() == 0, said.decode()
    assert longest < 5, said.decode()
