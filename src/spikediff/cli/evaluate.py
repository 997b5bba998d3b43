"""`spikediff evaluate SOURCE`: measure image quality by a protocol, beside its floor."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from spikediff.cli.arguments import Range
from spikediff.cli.options import (
    COUNT,
    BatchSize,
    CompilableSource,
    DataDir,
    Dataset,
    Flat,
    GuidanceScale,
    Report,
    Sampling,
    Seed,
    Steps,
    Threshold,
)
from spikediff.errors import UserError
from spikediff.tables import text_table, wrapped

if TYPE_CHECKING:
    from torch import Tensor

    from spikediff.evaluation.sources import ImageSource
    from spikediff.systems.sdm.threshold_guidance import Scale

FeatureWeights = Annotated[
    Path | None,
    tyro.conf.arg(
        help="A file of weights of the feature network, or a folder of them under their published "
        "names."
    ),
]
CacheDir = Annotated[
    Path | None,
    tyro.conf.arg(
        help="Keeps features of real images; by default $SPIKEDIFF_CACHE or ~/.cache/spikediff."
    ),
]
WorkDir = Annotated[
    Path | None,
    tyro.conf.arg(
        help="Keeps generated images and measurements, so that an interrupted command continues; "
        "CACHE_DIR/work by default."
    ),
]


@dataclass(frozen=True)
class Quality:
    """How quality is measured."""

    protocol: str = "fair"
    """fair, fsddim, own-images, sddpm, spiking-diffusion, or a YAML file."""
    features: tuple[str, ...] | None = None
    """Only these feature networks of the protocol; or dinov2, timm:MODEL for any model of timm."""
    feature_weights: FeatureWeights = None
    dataset: Dataset = None
    data_dir: DataDir = None
    num_samples: Annotated[int | None, COUNT] = None
    """Images per repeat; by default as many as the protocol says."""
    repeats: Annotated[int, Range(1, 10**6)] = 1
    """How often quality is measured, each time with other seeds."""
    cache_dir: CacheDir = None
    work_dir: WorkDir = None


@dataclass(frozen=True)
class EvaluateOptions:
    """Measure the quality of a model's images, or of existing images, by a protocol.

    The source may also be a folder or an .npz of images, or data:NAME/SPLIT. Under `torchrun` or
    `accelerate launch` all processes share the work.
    """

    model: Flat[CompilableSource]
    quality: Flat[Quality] = Quality()
    image_size: Annotated[int | None, Range(1, 65_536)] = None
    """Side at which your own images (a folder, hf:ID) are compared; by default that of the run's
    recipe, the model or the evaluated images."""
    channels: Literal[1, 3] | None = None
    """Their channels, likewise."""
    statistics: Path | None = None
    """An .npz file with mu and sigma of the reference, for features in published mode."""
    seed: Seed = 0
    num_inference_steps: Steps = None
    threshold: Threshold = None
    guidance_scale: GuidanceScale = None
    batch_size: BatchSize = 64
    report: Flat[Report] = Report()


def run(options: EvaluateOptions) -> None:
    result = measure(options)
    if result is not None:
        _print(result)


def measure(options: EvaluateOptions) -> dict[str, Any] | None:
    """Return and write the result of an evaluation; None in all processes but the first."""
    from accelerate import PartialState

    from spikediff.evaluation.run import evaluate
    from spikediff.hub.load import check_event_driven, choose_device

    model = options.model
    check_event_driven(model.event_driven, model.event_driven_weights, model.device)
    processes = PartialState(cpu=model.device == "cpu" or model.event_driven)
    choose_device(model.device)  # or an error
    settings = _settings(options)
    images, shape = _open(options, settings, processes.device)
    size, channels = settings.image_size or shape[0], settings.channels or shape[1]
    settings = replace(settings, image_size=size, channels=channels)
    result = evaluate(images, settings, processes)
    if result is not None:
        options.report.write(json.loads(json.dumps(result, sort_keys=True)))
    return result


def _settings(options: EvaluateOptions) -> Any:
    """Return the settings, completed from the run's recipe and the environment."""
    from spikediff.data import DATASETS
    from spikediff.evaluation.plan import EvaluationSettings
    from spikediff.evaluation.protocol import load_protocol
    from spikediff.hub.run_data import cache_folder, find_dataset, recipe_data

    quality, folder = options.quality, options.model.source
    dataset, data_dir = find_dataset(folder, quality.dataset, quality.data_dir)
    for option, given in {"image-size": options.image_size, "channels": options.channels}.items():
        if given is not None and dataset in DATASETS:
            raise UserError(f"--{option}: {dataset} is compared in its own size; omit it")
    shape = recipe_data(folder)
    cache_dir = cache_folder(quality.cache_dir)
    return EvaluationSettings(
        protocol=load_protocol(quality.protocol).with_features(quality.features or ()),
        dataset=dataset,
        cache_dir=cache_dir,
        work_dir=(quality.work_dir or cache_dir / "work").expanduser(),
        data_dir=data_dir,
        image_size=options.image_size or (shape and shape.image_size),
        channels=options.channels or (shape and shape.channels),
        num_samples=quality.num_samples,
        repeats=quality.repeats,
        spool_size=options.batch_size,
        features=quality.features,
        feature_weights=quality.feature_weights,
        statistics=options.statistics,
    )


def _open(options: EvaluateOptions, settings: Any, device: Any) -> tuple[Any, tuple[int, int]]:
    """Return the images to evaluate, existing or from a model, and their size and channels."""
    from spikediff.evaluation.sources import DATA_PREFIX, open_images
    from spikediff.hub.load import choose_device, float64_part, local_folder, steps_of

    size, channels = settings.image_size, settings.channels
    text, seed = str(options.model.source), options.seed
    text = text if text.startswith(DATA_PREFIX) else str(local_folder(options.model.source))
    source = open_images(text, seed, settings.data_dir, size, channels)
    if source is not None:
        _check_no_model_options(options)
        first = source.take(0, 1)  # [1, C, H, W]
        return source, (min(first.shape[-2:]), first.shape[1])

    from spikediff.hub.run_data import network_shape

    pipe = replace(options.model, device="cpu").load(to_generate=True)
    pipe.set_progress_bar_config(disable=True)
    # accelerate's choice, unless it is MPS and the model needs float64
    mps = device.type == "mps"
    pipe.to(choose_device(options.model.device, float64_part(pipe)) if mps else device)
    scale = Sampling(threshold=options.threshold).scale(pipe)
    steps = steps_of(pipe, options.num_inference_steps)
    images = guided_images(pipe, scale, seed, steps, options.batch_size, options.guidance_scale)
    return images, network_shape(pipe)


def guided_images(
    pipe: Any,
    scale: "Scale | None",
    seed: int,
    num_inference_steps: int,
    batch_size: int,
    guidance_scale: float | None = None,
) -> "ImageSource":
    """Return the images of a pipeline under guidance, which their fingerprint covers.

    `scale` is a number, a mapping or a sequence of numbers; None means no guidance. `seed` is the
    seed of image 0.
    """
    from spikediff.evaluation.shards import fingerprint_of
    from spikediff.evaluation.sources import pipeline_images

    source = pipeline_images(pipe, seed, num_inference_steps, batch_size, guidance_scale)
    if scale is None:
        return source
    from spikediff.systems.sdm.threshold_guidance import threshold_guidance

    with threshold_guidance(pipe.unet, scale):
        pass  # a wrong layer or scale is an error before the reference is read

    def take(first: int, count: int) -> "Tensor":
        with threshold_guidance(pipe.unet, scale):
            return source.take(first, count)

    return replace(
        source,
        take=take,
        fingerprint=fingerprint_of(images=source.fingerprint, threshold=scale),
        description=source.description | {"threshold": scale},
    )


def _check_no_model_options(options: EvaluateOptions) -> None:
    given = {
        "--scheduler": options.model.scheduler,
        "--num-inference-steps": options.num_inference_steps,
        "--threshold": options.threshold,
        "--event-driven": options.model.event_driven or None,
        "--execution": options.model.execution,
        "--guidance-scale": options.guidance_scale,
    }
    for flag in (flag for flag, value in given.items() if value is not None):
        raise UserError(f"{flag}: only for models, but the source is existing images")


def _print(result: dict[str, Any]) -> None:
    counts, protocol = result["counts"], result["protocol"]
    conditions = (
        f"protocol {protocol['name']}: {counts['judged']} images"
        f"{' x ' + str(counts['repeats']) if counts['repeats'] > 1 else ''} against "
        f"{counts['reference']} of {result['dataset']}/{result['reference']['split']}; floor: "
        f"{counts['floor']} real images of {protocol['floor_split']}"
    )
    print(f"{wrapped(conditions)}\n")
    rows = [["metric", "value", "floor"]]
    for name, value in result["metrics"].items():
        text = f"{value['mean']:.5g}" + ("" if value["std"] is None else f" ± {value['std']:.3g}")
        rows.append([name, text, f"{result['floor'][name]:.5g}"])
    print(text_table(rows))
    print()
    print(wrapped(f"Caveat: {protocol['caveat']}", *(f"Note: {note}" for note in result["notes"])))
