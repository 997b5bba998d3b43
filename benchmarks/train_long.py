"""Train several recipes for so many minutes, and go on from where they stopped the next time.

    python benchmarks/train_long.py runs/long --minutes 9 integer/mnist integer/fashion-mnist
    python benchmarks/train_long.py runs/long --minutes 9 --at-once integer/mnist-classes \
        -- --data.batch-size 512 --optimizer.lr 4e-3 --training.mixed-precision bf16

Each recipe gets the run folder FOLDER/NAME and an equal share of the minutes, or all of them at
once. When its time is over, a run writes a checkpoint and ends; a run that is complete is left
alone. What stands behind `--` goes to `spikediff train` when a run begins; a run that goes on keeps
its own recipe. Packages that the machine lacks may lie in a folder that PYTHONPATH names.
"""

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path

_GRACE = 60.0  # seconds for the last checkpoint


def start(recipe: str, folder: Path, more: list[str]) -> subprocess.Popen[bytes] | None:
    """Start or resume a run; None where it is complete."""
    run = folder / recipe.replace("/", "-")
    if (run / "pipeline").is_dir():
        print(f"{run}: complete", flush=True)
        return None
    begun = (run / "recipe.yaml").is_file()
    source = [str(run / "recipe.yaml"), "--resume"] if begun else [recipe, *more]
    command = [sys.executable, "-m", "spikediff", "train", *source, "--output", str(run)]
    with (folder / f"{run.name}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def stop(process: subprocess.Popen[bytes], deadline: float) -> int:
    """Wait for a run until its time is over, then for its last checkpoint; return its exit code."""
    try:
        return process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        return process.wait(_GRACE)


def main() -> None:
    """Train, in turn or at once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--at-once", action="store_true")
    own, more = sys.argv[1:], []
    if "--" in own:
        cut = own.index("--")
        own, more = own[:cut], own[cut + 1 :]
    asked = parser.parse_args(own)
    asked.folder.mkdir(parents=True, exist_ok=True)
    seconds = 60 * asked.minutes
    groups = [asked.recipes] if asked.at_once else [[recipe] for recipe in asked.recipes]
    codes = []
    for group in groups:
        deadline = time.monotonic() + seconds / len(groups)
        started = [start(recipe, asked.folder, more) for recipe in group]
        codes += [stop(process, deadline) for process in started if process is not None]
    sys.exit(max((code for code in codes if code not in (0, 1)), default=0))  # 1: stopped in time


if __name__ == "__main__":
    main()
