"""`spikediff info [SOURCE]`: describe the installation, or a model."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from spikediff.cli.options import SHIPPED, Flat, Report
from spikediff.pretrained import check_source
from spikediff.tables import wrapped

if TYPE_CHECKING:
    from spikediff.systems.integer.compiled import ConvolutionRuns

_BUILD = "python -m spikediff.native.build"


@dataclass(frozen=True)
class InfoOptions:
    """Describe the installation, or a model."""

    source: Annotated[
        Path | None,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="[SOURCE]", help=f"{SHIPPED}, a run folder or a pipeline folder."),
    ] = None
    report: Flat[Report] = Report()


def run(options: InfoOptions) -> None:
    if options.source is not None:
        check_source(options.source)
    facts = _installed() if options.source is None else _model(options.source)
    for section, rows in facts.items():
        if section == "recipes":
            _print_recipes(rows)
            continue
        print(f"{section}:")
        width = max((len(str(key)) for key in rows), default=0)
        for key, value in rows.items():
            print(wrapped(f"  {key:<{width}}  {value}", indent=width + 4))
    options.report.write(facts)


def _print_recipes(names: Iterable[str]) -> None:
    """Print the names of recipes, a line for each system; `--json` has their paths."""
    print("recipes:")
    for system, of_system in groupby(names, lambda name: name.split("/")[0]):
        print(wrapped(f"  {', '.join(of_system)}", indent=len(system) + 3))


def _installed() -> dict[str, dict[str, Any]]:
    import torch

    from spikediff.data import DATASETS, SIGNALS
    from spikediff.diffusion.schedulers import SCHEDULERS
    from spikediff.native import native_name
    from spikediff.pretrained import shipped_recipes
    from spikediff.training.computation import cpu_has_bf16
    from spikediff.training.run_folder import environment

    here, kernels = environment(seed=0), native_name()
    return {
        "packages": here["packages"],
        "machine": {
            "python": here["python"],
            "platform": here["platform"],
            "cpus": here["cpus"],
            "cpu_bf16": cpu_has_bf16(),
            "neuron kernels": f"{kernels}: run {_BUILD}" if kernels == "none" else kernels,
            "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        },
        "recipes": {name: str(path) for name, path in shipped_recipes().items()},
        "data sets": {name: row.summary for name, row in DATASETS.items()},
        "signals": {name: row.summary for name, row in SIGNALS.items()},
        "schedulers": {name: cls for name, (cls, _) in SCHEDULERS.items()},
    }


def _model(source: Path) -> dict[str, dict[str, Any]]:
    from spikediff.diffusion.classes import class_names
    from spikediff.diffusion.loop import networks_of
    from spikediff.hub.load import load_pipeline
    from spikediff.neurons import SpikeEmitter

    pipe = load_pipeline(source)
    networks, facts = networks_of(pipe), {}
    for name, network in networks.items():
        suffix = f" {name}" if len(networks) > 1 else ""
        facts[f"model{suffix}"] = {
            "class": type(network).__name__,
            "parameters": network.num_parameters(),
            "trainable": network.num_parameters(only_trainable=True),
            "neuron_layers": sum(isinstance(m, SpikeEmitter) for m in network.modules()),
        }
        if names := class_names(network):
            facts[f"model{suffix}"]["classes"] = ", ".join(names)
        config = {k: v for k, v in network.config.items() if not k.startswith("_")}
        facts[f"configuration{suffix}"] = config
    if "scheduler" in pipe.components:
        config = pipe.scheduler.config
        keys = ("prediction_type", "beta_schedule", "num_train_timesteps")
        known = {key: config[key] for key in keys if key in config}
        facts["scheduler"] = {"class": type(pipe.scheduler).__name__} | known
    return facts | _compiled(pipe)


_CALLS = 10  # of the image that shows which kernels are chosen


def _compiled(pipe: Any) -> dict[str, dict[str, Any]]:
    """Return how the deployment form of an integer network runs on this CPU; else nothing.

    Which kernel a convolution takes depends on its counts, so that an image is generated.
    """
    import torch

    from spikediff.diffusion.classes import classes_in_turn
    from spikediff.hub.load import compile_exactly
    from spikediff.native import native_name
    from spikediff.systems.integer.compiled import CompiledIntegerUNet

    unet = compile_exactly(pipe).components.get("unet")
    if not isinstance(unet, CompiledIntegerUNet):
        return {}
    pipe.set_progress_bar_config(disable=True)
    pipe(seeds=[0], num_inference_steps=_CALLS, output_type="pt", **classes_in_turn(pipe, [0]))
    what = "changed" if unet.config.execution == "delta" else "not 0"
    runs = {run.name: run for run in unet.ran()}
    threads = torch.get_num_threads()
    return {
        "deployment form": {
            "execution": unet.config.execution,
            "instruction set": native_name() if runs else "none: plain torch",
            "threads": f"{threads}, each with images of its own" if runs else str(threads),
        },
        f"kernels of the convolutions, one image of {_CALLS} calls": {
            name: _kernel(run, what) for name, run in runs.items()
        },
    }


def _kernel(run: "ConvolutionRuns", what: str) -> str:
    """Return which kernel ran, and the share of the quads that are `what`."""
    if run.quads is None:
        return "dense, by matrix tiles"
    if run.dense in (0, 1):
        kernel = "dense" if run.dense else "by quads, zeros skipped"
    else:
        kernel = f"dense in {run.dense:.0%} of the calls, else by quads"
    return f"{kernel}; {run.quads:.0%} of the quads {what}"
