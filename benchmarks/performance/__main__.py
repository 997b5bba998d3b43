"""The command: measure, print one table, write it, and compare it with the committed one."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from performance import (
    ceilings_section,
    convolution_section,
    evaluation_section,
    growth_section,
    guard,
    integer_section,
    integer_training_section,
    machine,
    network_section,
    neuron_section,
    sampling_section,
    start_section,
)
from performance.growth_plot import plot_growth
from performance.settings import Settings
from performance.table import Group, group_of_json, lines

SECTIONS: dict[str, Callable[[Settings], Iterable[Group]]] = {
    "ceilings": ceilings_section.measure,
    "neuron": neuron_section.measure,
    "convolution": convolution_section.measure,
    "network": network_section.measure,  # its groups of bytes are called memory
    "integer": integer_section.measure,
    "integer training": integer_training_section.measure,
    "sampling": sampling_section.measure,
    "start": start_section.measure,
    "evaluation": evaluation_section.measure,
}
GROWTH = "growth"


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(prog="performance", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=[*SECTIONS, GROWTH], action="append", metavar="SECTION")
    parser.add_argument("--quick", action="store_true", help="small shapes, few rounds")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sddpm", type=Path, metavar="RUN", help="trained run of a denoiser")
    parser.add_argument(
        "--random-weights", action="store_true", help="the full-size SDDPM network, untrained"
    )
    parser.add_argument(
        "--batch", type=int, action="append", help="images in the whole network; may be repeated"
    )
    parser.add_argument(
        "--way", action="append", default=[], metavar="NAME", help="of running the whole network"
    )
    parser.add_argument(
        "--times-only", action="store_true", help="of the whole network, no memory or agreement"
    )
    parser.add_argument(
        "--task", choices=network_section.TASKS, action="append", help="of the whole network"
    )
    parser.add_argument("--pipeline", action="append", default=[], metavar="NAME=RUN")
    parser.add_argument("--integer", type=Path, metavar="RUN", help="of an integer network")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="MNIST, for `evaluate`")
    parser.add_argument("--feature-weights", type=Path, metavar="DIR", help="for `evaluate`")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="where to draw the growth")
    parser.add_argument(
        "--compiled", action="store_true", help="also SpikingJelly under torch.compile: minutes"
    )
    parser.add_argument("--output", type=Path, metavar="JSON")
    parser.add_argument("--compare", type=Path, metavar="JSON", help="the committed table")
    parser.add_argument("--tolerance", type=float, default=guard.TOLERANCE)
    return parser


def measure(names: Sequence[str], settings: Settings) -> list[Group]:
    """Measure sections, and print each as soon as it is there."""
    groups: list[Group] = []
    for name in names:
        for group in SECTIONS[name](settings):
            print("\n".join(lines(group)), flush=True)
            groups.append(group)
    return groups


def grow(settings: Settings) -> list[dict[str, Any]]:
    """Measure, print and draw the growth."""
    curves = growth_section.measure(settings)
    print("\n".join(growth_section.lines(curves)), flush=True)
    if settings.plot is not None:
        plot_growth(curves, settings.plot)
    return [curve.to_dict() for curve in curves]


def judged(
    committed: dict[str, Any], groups: list[Group], names: Sequence[str], args: Any, settings: Any
) -> guard.Verdict:
    """Return the verdict; what is worse is measured a second time before it counts."""
    old = [group_of_json(group) for group in committed["groups"]]
    verdict = guard.compare(old, groups, args.tolerance)
    again = [n for n in names if any(_belongs(key, n) for key in verdict.worse)]
    if again:
        print(f"\nworse, so once more: {', '.join(again)}")
        second = guard.compare(old, measure(again, settings), args.tolerance)
        verdict = guard.worst_of_two(verdict, second)
    return verdict


def _belongs(key: str, section: str) -> bool:
    return key.split(":")[0] in (("network", "memory") if section == "network" else (section,))


def main() -> int:
    """Measure as the arguments say; 1 if the guard found something worse."""
    args = arguments().parse_args()
    torch.set_num_threads(args.threads)
    settings = Settings(
        quick=args.quick,
        threads=args.threads,
        compiled=args.compiled,
        sddpm=args.sddpm,
        random_weights=args.random_weights,
        pipelines={n: Path(run) for n, _, run in (p.partition("=") for p in args.pipeline)},
        integer=args.integer,
        data_dir=args.data_dir,
        feature_weights=args.feature_weights,
        plot=args.plot,
        batches=tuple(args.batch or (1,)),
        ways=tuple(args.way),
        times_only=args.times_only,
        tasks=tuple(args.task or network_section.TASKS),
    )
    here = machine.facts(args.threads)
    print(", ".join(f"{key} {value}" for key, value in here.items()))
    wanted = args.only or [*SECTIONS, GROWTH]
    names = [name for name in SECTIONS if name in wanted]
    groups = measure(names, settings)
    growth = grow(settings) if GROWTH in wanted and (args.output or not args.compare) else []
    if args.output is not None:
        table = {
            "machine": here,
            "quick": args.quick,
            "groups": [asdict(group) for group in groups],
            "growth": growth,
        }
        args.output.write_text(json.dumps(table, indent=1) + "\n")
    if args.compare is None:
        return 0
    committed = json.loads(args.compare.read_text())
    verdict = judged(committed, groups, names, args, settings)
    print("\n".join(["", *guard.lines(verdict, committed["machine"], here)]))
    return 0 if verdict.passed else 1


if __name__ == "__main__":
    sys.exit(main())
