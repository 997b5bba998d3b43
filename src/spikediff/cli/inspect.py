"""`spikediff inspect SOURCE`: show the spikes of a model while it generates."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from spikediff.cli.arguments import Range
from spikediff.cli.options import OUTPUTS, Flat, FolderReport, NumImages, Sampling, Seed, Source
from spikediff.progress import at_work

_SHOWN = 64  # images in the grid of the page


@dataclass(frozen=True)
class InspectOptions:
    """Generate images and show how every layer of neurons fires: plots and an HTML page."""

    model: Flat[Source]
    num_images: NumImages = 8
    seed: Seed = 0
    sampling: Flat[Sampling] = Sampling()
    layers: str = "*"
    """Patterns of the layers to show, separated by commas: "up_levels", "*.neuron1"."""
    neurons_per_layer: Annotated[int, Range(1, 65_536)] = 40
    """Neurons per layer in the raster."""
    report: Flat[FolderReport] = FolderReport(output=OUTPUTS / "inspect")


def run(options: InspectOptions) -> None:
    from spikediff.inspection import write_report

    pipe = options.model.load()
    record, images = _observe(pipe, options)
    settings = _settings(pipe, options)
    folder = options.report.folder("report")
    with at_work(f"drawing {len(list(record.seen))} layers"):
        files = write_report(record, folder, title_of(options.model.source), settings, images)
    print(record.table())
    print(f"\n{files[-1].resolve()}: the page; {len(files) - 1} plots beside it")
    options.report.write(settings | record.to_dict())


def _observe(pipe: Any, options: InspectOptions) -> tuple[Any, Any]:
    """Generate images under a recorder; return its record and a grid, None for signals."""
    from spikediff.data import from_unit_range
    from spikediff.diffusion.outputs import image_grid, to_pil
    from spikediff.inspection import SpikeRecorder

    recorder = SpikeRecorder(
        pipe,
        layers=options.layers.split(","),
        neurons_per_layer=options.neurons_per_layer,
        seed=options.seed,
    )
    seeds = range(options.seed, options.seed + options.num_images)
    pictures: list[Any] = []
    with options.sampling.guided(pipe), recorder as record:
        make = partial(pipe, output_type="pt")
        for output in options.sampling.generate(pipe, seeds, make):
            if output.images.ndim == 4 and len(pictures) < _SHOWN:
                pictures += to_pil(from_unit_range(output.images[:_SHOWN]))
    return record, image_grid(pictures) if pictures else None


def title_of(source: Path) -> str:
    """Return the name of a run folder, even if its pipeline folder is given."""
    folder = source.resolve()
    return folder.parent.name if folder.name == "pipeline" else folder.name


def _settings(pipe: Any, options: InspectOptions) -> dict[str, Any]:
    """Return the settings that the page and the report show."""
    from spikediff.diffusion.loop import networks_of

    networks = networks_of(pipe)
    windows = [str(network.config.get("spiking_steps", "")) for network in networks.values()]
    scheduler = pipe.components.get("scheduler")
    last = options.seed + options.num_images - 1
    settings: dict[str, Any] = {
        "pipeline": type(pipe).__name__,
        "networks": ", ".join(type(network).__name__ for network in networks.values()),
        "spiking steps T": ", ".join(dict.fromkeys(filter(None, windows))),
        "images": options.num_images,
        "seeds": f"{options.seed} to {last}",
        "layers": "all" if options.layers == "*" else options.layers,
        "chosen neurons per layer": options.neurons_per_layer,
    }
    if scheduler is not None:
        settings["scheduler"] = type(scheduler).__name__
        settings["denoising steps"] = options.sampling.steps(pipe)
    if options.sampling.threshold is not None:
        settings["threshold guidance"] = options.sampling.threshold
    return settings
