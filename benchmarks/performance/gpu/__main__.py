"""The command: measure on a GPU, print one table, and write it.

Every section has a process and a time of its own; what it measured before it failed is kept.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from performance.gpu import (
    device,
    neuron_section,
    sddpm_section,
    trainer_section,
    training_section,
)
from performance.gpu.device import INTERPRET, Bench
from performance.table import Group, lines
from spikediff.errors import one_line

SECONDS = 465.0  # of all sections together


@dataclass(frozen=True)
class Section:
    """What a process measures.

    Attributes:
        measure: Yields groups.
        seconds: After which it is stopped.
        environment: Of its process.
    """

    measure: Callable[[Bench], Iterable[Group]]
    seconds: float
    environment: dict[str, str] = field(default_factory=dict)


def _neurons(theirs: str, seconds: float) -> Section:
    """Return the section of neurons, with an implementation of SpikingJelly's."""
    variables = ("SJ_IF_CUDA_IMPLEMENTATION", "SJ_LIF_CUDA_IMPLEMENTATION")
    measure = partial(neuron_section.measure, theirs=theirs)
    return Section(measure, seconds, dict.fromkeys(variables, theirs))


SECTIONS = {
    "neurons, triton": _neurons("triton", 90.0),
    "integer training": Section(training_section.measure, 200.0),
    "trainer": Section(trainer_section.measure, 150.0),
    "sddpm": Section(sddpm_section.measure, 90.0),
    "neurons, torch": _neurons("torch", 120.0),
}


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(prog="performance.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(SECTIONS), action="append", metavar="SECTION")
    parser.add_argument("--quick", action="store_true", help="small shapes, few rounds")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="MNIST, for the trainer")
    parser.add_argument(
        "--interpret", action="store_true", help="on the CPU at tiny sizes: tests the benchmark"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="JSON")
    parser.add_argument("--process", metavar="SECTION", help=argparse.SUPPRESS)
    parser.add_argument("--groups", type=Path, help=argparse.SUPPRESS)
    return parser


def run_here(name: str, bench: Bench, groups: Path) -> int:
    """Measure a section in this process; add what it yields to a file, a line each."""
    with open(groups, "a", encoding="utf-8") as file:
        try:
            for group in SECTIONS[name].measure(bench):
                print("\n".join(lines(group)), flush=True)
                file.write(json.dumps(asdict(group)) + "\n")
                file.flush()
        except Exception as error:
            traceback.print_exc()
            told = f"{type(error).__name__}: {one_line(error, 400)}"
            file.write(json.dumps({"error": told}) + "\n")
            return 1
    return 0


def run_apart(
    name: str, given: list[str], seconds: float | None
) -> tuple[list[dict[str, Any]], str]:
    """Measure a section in a process of its own; return its groups, and why there are no more."""
    with tempfile.TemporaryDirectory() as folder:
        groups = Path(folder) / "groups"
        groups.touch()
        command = [sys.executable, "-m", "performance.gpu", *given]
        process = subprocess.Popen(
            [*command, "--process", name, "--groups", str(groups)],
            env=os.environ | SECTIONS[name].environment,
            start_new_session=True,
        )
        error = ""
        try:
            if code := process.wait(seconds):
                error = f"exit code {code}"
        except subprocess.TimeoutExpired:
            error = f"stopped after {seconds:.0f} s"
        finally:
            _end(process)
        lines_kept = groups.read_text().split("\n")[:-1]  # the last one may not be whole
        found = [json.loads(line) for line in lines_kept]
    told = [group["error"] for group in found if "error" in group]
    return [group for group in found if "error" not in group], told[0] if told else error


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main() -> int:
    """Measure as the arguments say; 1 if a section failed, 2 without a GPU."""
    parser = arguments()
    args = parser.parse_args()
    interpreted = args.interpret or device.is_interpreted()
    if not (interpreted or torch.cuda.is_available()):
        parser.exit(2, "performance.gpu: there is no CUDA device; --interpret tests the script\n")
    if args.process is not None:
        return run_here(args.process, Bench(interpreted, args.quick, args.data_dir), args.groups)
    if interpreted:
        os.environ[INTERPRET] = "1"  # Triton reads it when a section imports it
    given = [*(["--quick"] if args.quick else [])]
    if args.data_dir is not None:
        given += ["--data-dir", str(args.data_dir)]
    here = device.facts(interpreted)
    print(", ".join(f"{key} {value}" for key, value in here.items()), flush=True)
    table: dict[str, Any] = {"machine": here, "quick": args.quick, "interpreted": interpreted}
    table |= {"groups": [], "errors": {}, "seconds": {}}
    end = time.monotonic() + SECONDS
    for name in args.only or SECTIONS:
        started = time.monotonic()
        left = max(1.0, min(SECTIONS[name].seconds, end - started))
        groups, error = run_apart(name, given, None if interpreted else left)
        table["groups"] += groups
        table["seconds"][name] = round(time.monotonic() - started, 1)
        if error:
            table["errors"][name] = error
            print(f"\n{name} -- {error}", flush=True)
        if args.output is not None:
            args.output.write_text(json.dumps(table, indent=1) + "\n")
    print(f"\nseconds: {table['seconds']}")
    return 1 if table["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
