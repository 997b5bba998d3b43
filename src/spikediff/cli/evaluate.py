"""`spikediff evaluate SOURCE`: how good the images are, by a protocol, beside the floor."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from spikediff.cli.arguments import EventDriven, EventDrivenWeights, Execution, parse
from spikediff.cli.outputs import write_json
from spikediff.errors import UserError
from spikediff.hub.run_data import cache_folder, find_dataset, network_shape, recipe_shape


@dataclass(frozen=True)
class EvaluateOptions:
    """Measure a model's images, or images that are there, by a protocol.

    Under `torchrun` or `accelerate launch` all processes share the work.
    """

    source: Annotated[str, tyro.conf.Positional]
    """A pipeline's or a run folder; a folder or an .npz of images; data:NAME/SPLIT."""
    protocol: str = "fair"
    """fair, fsddim, sddpm, spiking-diffusion, or a YAML file."""
    dataset: str | None = None
    """What to compare with; the data set of the run's recipe where it is not given."""
    data_dir: Path | None = None
    """Folder that holds the data sets; that of the run's recipe where it is not given."""
    image_size: int | None = None
    """Side at which images of your own (a folder, hf:ID) are compared; that of the run's recipe,
    the model or the judged images where it is not given."""
    channels: Literal[1, 3] | None = None
    """Their channels, likewise."""
    feature_weights: Path | None = None
    """A file of weights of the feature network, or a folder of them under their published names."""
    statistics: Path | None = None
    """An .npz with mu and sigma of the reference, for features of mode published."""
    features: tuple[str, ...] | None = None
    """Only these feature networks of the protocol."""
    num_samples: int | None = None
    """Images a repeat; as many as the protocol says where it is not given."""
    repeats: int = 1
    """How often, each time with other seeds."""
    seed: int = 0
    """Seed of the first image; the others follow, one each. Of data: the order."""
    num_inference_steps: int | None = None
    """Network calls per image; 50, or as many as the model has, where it is not given."""
    scheduler: str | None = None
    """A sampler of `spikediff info`; the pipeline's own where it is not given."""
    threshold: str | None = None
    """Threshold guidance of a model: 0.997, or stem=0.99,up_blocks=1.01, or one a step."""
    guidance_scale: float | None = None
    """How far a model is pulled towards its classes, each in turn; 1 where it is not given."""
    batch_size: int = 64
    """Images at a time, and in a file of the work folder; it does not change them."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    event_driven: EventDriven = False
    event_driven_weights: EventDrivenWeights = "float32"
    execution: Execution = None
    cache_dir: Path | None = None
    """Keeps features of real images; $SPIKEDIFF_CACHE or ~/.cache/spikediff."""
    work_dir: Path | None = None
    """Keeps generated images, so that an interrupted run goes on; CACHE_DIR/work."""
    json: Path | None = None
    """Also write the result for a program to read."""


def run(arguments: list[str]) -> int:
    """Measure and print."""
    options = parse(EvaluateOptions, arguments, "spikediff evaluate")
    result = measure(options)
    if result is not None:
        write_json(options.json, json.loads(json.dumps(result, sort_keys=True)))
        _tell(result)
    return 0


def measure(options: EvaluateOptions) -> dict[str, Any] | None:
    """Return what an evaluation finds; None in all processes but the first."""
    _check(options)

    from accelerate import PartialState

    from spikediff.evaluation.run import evaluate

    processes = PartialState(cpu=options.device == "cpu" or options.event_driven)
    if options.device == "cuda" and processes.device.type != "cuda":
        raise UserError("--device cuda: torch sees no CUDA device here; use cpu")
    settings = _settings(options)
    source, shape = _open(options, settings, processes.device)
    size, channels = settings.image_size or shape[0], settings.channels or shape[1]
    settings = replace(settings, image_size=size, channels=channels)
    return evaluate(source, settings, processes)


def _check(options: EvaluateOptions) -> None:
    from spikediff.hub.load import check_event_driven

    check_event_driven(options.event_driven, options.event_driven_weights, options.device)


def _settings(options: EvaluateOptions) -> Any:
    """Return the settings, completed from the run's recipe and the environment."""
    from spikediff.evaluation.plan import EvaluationSettings
    from spikediff.evaluation.protocol import load_protocol

    dataset, data_dir = find_dataset(Path(options.source), options.dataset, options.data_dir)
    image_size, channels = recipe_shape(Path(options.source))
    cache_dir = cache_folder(options.cache_dir)
    return EvaluationSettings(
        protocol=load_protocol(options.protocol),
        dataset=dataset,
        cache_dir=cache_dir,
        work_dir=(options.work_dir or cache_dir / "work").expanduser(),
        data_dir=data_dir,
        image_size=options.image_size or image_size,
        channels=options.channels or channels,
        num_samples=options.num_samples,
        repeats=options.repeats,
        spool_size=options.batch_size,
        features=options.features,
        feature_weights=options.feature_weights,
        statistics=options.statistics,
    )


def _open(options: EvaluateOptions, settings: Any, device: Any) -> tuple[Any, tuple[int, int]]:
    """Return the images to be judged, there already or of a model, and their size and channels."""
    from spikediff.evaluation.sources import open_images

    size, channels = settings.image_size, settings.channels
    source = open_images(options.source, options.seed, settings.data_dir, size, channels)
    if source is not None:
        if options.threshold is not None:
            raise UserError("--threshold guides a model, but the images are there already")
        if options.event_driven:
            raise UserError("--event-driven runs a model, but the images are there already")
        if options.execution is not None:
            raise UserError("--execution runs a model, but the images are there already")
        if options.guidance_scale is not None:
            raise UserError("--guidance-scale guides a model, but the images are there already")
        first = source.take(0, 1)  # [1, C, H, W]
        return source, (min(first.shape[-2:]), first.shape[1])

    from spikediff.cli.guided import guided_images
    from spikediff.hub.load import load_pipeline, steps_of
    from spikediff.systems.sdm.threshold_guidance import parse_scale

    pipe = load_pipeline(
        Path(options.source),
        options.scheduler,
        event_driven=options.event_driven,
        weights=options.event_driven_weights,
        execution=options.execution,
        to_generate=True,
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.to(device)
    scale = None if options.threshold is None else parse_scale(options.threshold)
    steps = steps_of(pipe, options.num_inference_steps)
    images = guided_images(
        pipe, scale, options.seed, steps, options.batch_size, options.guidance_scale
    )
    return images, network_shape(pipe)


def _tell(result: dict[str, Any]) -> None:
    """Print the numbers with what must stand beside them."""
    counts, protocol = result["counts"], result["protocol"]
    print(
        f"protocol {protocol['name']}: {counts['judged']} images"
        f"{' x ' + str(counts['repeats']) if counts['repeats'] > 1 else ''} against "
        f"{counts['reference']} of {result['dataset']}/{result['reference']['split']}; floor: "
        f"{counts['floor']} real images of {protocol['floor_split']}\n"
    )
    width = max(map(len, result["metrics"]))
    print(f"{'metric':<{width}}  {'value':>20}  {'floor':>10}")
    for name, value in result["metrics"].items():
        told = f"{value['mean']:.5g}" + ("" if value["std"] is None else f" ± {value['std']:.3g}")
        print(f"{name:<{width}}  {told:>20}  {result['floor'][name]:>10.5g}")
    print(f"\nCaveat: {protocol['caveat']}")
    for note in result["notes"]:
        print(f"Note: {note}")
