"""`spikediff inspect SOURCE`: see the spikes of a model while it generates."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from spikediff.cli.arguments import parse
from spikediff.cli.outputs import Overwrite, check_new_folder, new_folder, write_json
from spikediff.progress import at_work

_BATCH = 64  # images at a time


@dataclass(frozen=True)
class InspectOptions:
    """Generate images and show how every layer of neurons fires: pictures, and one page of HTML."""

    source: Annotated[Path, tyro.conf.Positional]
    """A pipeline's folder or a run folder."""
    output: Path = Path("spikes")
    """Folder for the page (index.html) and the pictures."""
    overwrite: Overwrite = False
    num_images: int = 8
    """How many images to generate for it; rasters and membranes are those of the first."""
    seed: int = 0
    """Seed of the first image, and of the choice of neurons; the other images follow, one each."""
    num_inference_steps: int | None = None
    """Network calls per image; 50, or as many as the model has, where it is not given."""
    scheduler: str | None = None
    """A sampler of `spikediff info`; the pipeline's own where it is not given."""
    threshold: str | None = None
    """Threshold guidance: 0.997, or stem=0.99,up_blocks=1.01 by layer, or one a step."""
    layers: str = "*"
    """Patterns of the layers to show, with commas between them: "up_levels", "*.neuron1"."""
    neurons_per_layer: int = 40
    """Neurons of a layer in its raster."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    json: Path | None = None
    """Also write the figures, for a program to read."""


def run(arguments: list[str]) -> int:
    """Generate, record, draw."""
    options = parse(InspectOptions, arguments, "spikediff inspect")
    check_new_folder(options.output, options.overwrite)

    from spikediff.hub.load import load_pipeline
    from spikediff.inspection import write_report

    pipe = load_pipeline(options.source, options.scheduler, options.device)
    record, images = _observe(pipe, options)
    settings = _settings(pipe, options)
    new_folder(options.output, "report", options.overwrite)
    with at_work(f"drawing {len(list(record.seen))} layers"):
        title = title_of(options.source)
        files = write_report(record, options.output, title, settings, images)
    _tell(record)
    print(f"\n{files[-1]}: the page; {len(files) - 1} pictures beside it")
    write_json(options.json, settings | record.to_dict())
    return 0


def _observe(pipe: Any, options: InspectOptions) -> tuple[Any, Any]:
    """Generate images under a recorder; return its record and a grid, None of signals."""
    from spikediff.cli.guided import guided
    from spikediff.data import from_unit_range
    from spikediff.diffusion.outputs import image_grid, to_pil
    from spikediff.hub.load import steps_of
    from spikediff.inspection import SpikeRecorder

    recorder = SpikeRecorder(
        pipe,
        layers=options.layers.split(","),
        neurons_per_layer=options.neurons_per_layer,
        seed=options.seed,
    )
    end = options.seed + options.num_images
    pictures: list[Any] = []
    with guided(pipe, options.threshold), recorder as record:
        for first in range(options.seed, end, _BATCH):
            images = pipe(
                seeds=range(first, min(first + _BATCH, end)),
                num_inference_steps=steps_of(pipe, options.num_inference_steps),
                output_type="pt",
            ).images
            if images.ndim == 4 and len(pictures) < _BATCH:
                pictures += to_pil(from_unit_range(images))
    return record, image_grid(pictures) if pictures else None


def title_of(source: Path) -> str:
    """Return the name of a run: its folder's, also where the pipeline in it is given."""
    folder = source.resolve()
    return folder.parent.name if folder.name == "pipeline" else folder.name


def _settings(pipe: Any, options: InspectOptions) -> dict[str, Any]:
    """Return what was done, for the page and for a program."""
    from spikediff.hub.load import networks_of, steps_of

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
        "chosen neurons a layer": options.neurons_per_layer,
    }
    if scheduler is not None:
        settings["scheduler"] = type(scheduler).__name__
        settings["denoising steps"] = steps_of(pipe, options.num_inference_steps)
    if options.threshold is not None:
        settings["threshold guidance"] = options.threshold
    return settings


def _tell(record: Any) -> None:
    """Print a line for every layer."""
    width = max(len(layer.name) for layer in record.seen)
    print(f"{'layer':<{width}} {'neurons':>9} {'fires':>7} {'dead':>7} {'saturated':>9}")
    for layer in record.seen:
        print(
            f"{layer.name:<{width}} {layer.neurons:>9,} {layer.rate:>7.1%} {layer.dead:>7.1%} "
            f"{layer.saturated:>9.1%}"
        )
    print(f"all neurons fire at {record.rate:.1%} of the spiking steps")
