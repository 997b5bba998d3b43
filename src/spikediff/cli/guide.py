"""`spikediff guide SOURCE`: search a threshold scale that improves the images."""

import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from spikediff.cli.arguments import OutputFile, Range
from spikediff.cli.evaluate import CacheDir, FeatureWeights, WorkDir, guided_images
from spikediff.cli.options import (
    BatchSize,
    DataDir,
    Dataset,
    Flat,
    NumImages,
    Report,
    Seed,
    Source,
    Steps,
)
from spikediff.cli.outputs import FIGURE_FORMATS
from spikediff.errors import UserError, suggestion
from spikediff.tables import wrapped

if TYPE_CHECKING:
    from spikediff.evaluation.feature_cache import FeatureSet
    from spikediff.evaluation.protocol import EvaluationProtocol
    from spikediff.systems.sdm.scale_search import GuidanceCurve, GuidanceSearch


@dataclass(frozen=True)
class GuideOptions:
    """Search the scale of the thresholds on the held-out tenth of the training split.

    All scales are measured on the same seeds. A gain counts if it exceeds two standard errors
    there and again on fresh seeds. Measurements are stored, so an interrupted search continues.
    """

    model: Flat[Source]
    thresholds: str = "0.98,0.99,0.997,1,1.003,1.01,1.02"
    """Scales to try, in multiples of the trained thresholds; 1 is always included."""
    layers: str | None = None
    """Guide only the layers that match this pattern, for example stem or up_blocks.*."""
    metric: str = "frechet"
    """frechet, kernel, inception_score, precision, recall, density or coverage."""
    features: str = "classifier"
    """Feature network: classifier, fad, resnet20 or inception."""
    feature_weights: FeatureWeights = None
    dataset: Dataset = None
    data_dir: DataDir = None
    num_samples: NumImages = 256
    seeds: Annotated[int, Range(2, 1_000)] = 3
    """Ranges of seeds for every scale, two or more; as many fresh ranges confirm a gain."""
    seed: Seed = 0
    budget_seconds: Annotated[float | None, Range(0, 1e12)] = None
    """Start no measurement later than this many seconds after the start."""
    budget_images: Annotated[int | None, Range(0, 1e12)] = None
    """Generate no more images than this."""
    num_inference_steps: Steps = None
    batch_size: BatchSize = 64
    cache_dir: CacheDir = None
    work_dir: WorkDir = None
    plot: Annotated[Path | None, OutputFile(FIGURE_FORMATS)] = None
    """Also draw the curve: .svg, .pdf or .png."""
    report: Flat[Report] = Report()


def run(options: GuideOptions) -> None:
    _metric(options)

    from spikediff.hub.run_data import recipe_data
    from spikediff.systems.sdm.scale_search import plot_curve, search_scale
    from spikediff.systems.sdm.threshold_guidance import parse_numbers

    scales = parse_numbers(options.thresholds)
    budget = _budget(options, scales)
    judge = _open_judge(options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        found = search_scale(
            partial(_measure, judge, options),
            scales,
            options.seeds,
            lower_is_better=_metric(options)[1],
            budget=budget,
        )
    notes = list(dict.fromkeys(str(warning.message) for warning in caught))
    if found.curve is not None and found.curve.best in (min(scales), max(scales)):
        notes.append(
            f"{found.curve.best:g} is an end of the grid; the best scale may lie beyond it"
        )
    data = recipe_data(options.model.source)
    if data is not None and not data.hold_out:
        notes.append("the run was also trained on the held-out images (data.hold_out: false)")
    _print(found, judge, options, notes)
    options.report.write(_content(found, judge, options, notes))
    if options.plot is not None and found.curve is not None:
        plot_curve(found.curve, f"{options.features} {options.metric}", options.plot)


def _metric(options: GuideOptions) -> tuple[str, bool]:
    """Return the metric of a protocol that computes `--metric`, and whether lower is better."""
    from spikediff.evaluation.metrics import METRICS

    known = {
        number: (name, lower)
        for name, metric in METRICS.items()
        for number, lower in metric.lower_is_better.items()
    }
    if options.metric not in known:
        raise UserError(f"--metric {options.metric!r}; {suggestion(options.metric, known)}")
    return known[options.metric]


def _budget(options: GuideOptions, scales: tuple[float, ...]) -> Any:
    """Return the budget; refuse one without two repeats of every scale."""
    from spikediff.systems.sdm.scale_search import Budget

    if options.budget_images is None:
        return Budget(options.budget_seconds)
    measurements = options.budget_images // options.num_samples
    least = 2 * len({*scales, 1.0})
    if measurements < least:
        raise UserError(
            f"--budget-images {options.budget_images} is too small for error bars; give "
            f"{least * options.num_samples} or more, or fewer --thresholds or --num-samples"
        )
    return Budget(options.budget_seconds, measurements)


@dataclass(frozen=True, eq=False)
class _Judge:
    """The reference of every scale's images, and how they are compared."""

    pipe: Any
    num_inference_steps: int
    protocol: "EvaluationProtocol"  # of one measurement
    network: Any  # of features
    reference: "FeatureSet"  # of the held-out images
    processes: Any
    dataset: str
    work_dir: Path  # keeps features of generated images


def _open_judge(options: GuideOptions) -> _Judge:
    from accelerate import PartialState

    from spikediff.data import DATASETS, load_images
    from spikediff.evaluation.feature_cache import features
    from spikediff.evaluation.features import load_features
    from spikediff.evaluation.plan import choose_networks
    from spikediff.evaluation.sources import real_images
    from spikediff.hub.load import denoiser_of, steps_of
    from spikediff.hub.run_data import cache_folder, find_dataset, network_shape

    dataset, data_dir = find_dataset(options.model.source, options.dataset, options.data_dir)
    cache_dir = cache_folder(options.cache_dir)
    protocol = _protocol(options)
    pipe = options.model.load()
    denoiser_of(pipe, options.model.source)  # thresholds are those of an image denoiser
    pipe.set_progress_bar_config(disable=True)
    processes = PartialState(cpu=pipe.device.type == "cpu")
    if processes.num_processes > 1:
        raise UserError("guide runs in one process; start it without torchrun")
    size, channels = (None, None) if dataset in DATASETS else network_shape(pipe)
    split = partial(
        load_images, dataset, "train", image_size=size, channels=channels, data_dir=data_dir
    )
    held_out, whole = split(held_out=True), split()
    chosen, _ = choose_networks(protocol, whole, options.feature_weights, asked=(options.features,))
    [(part, weights)] = chosen.items()
    network = load_features(
        part.network, weights=weights, dataset=whole, cache_dir=cache_dir, device=str(pipe.device)
    )
    reference = features(
        real_images(held_out),
        range(len(held_out)),
        network,
        cache_dir,
        "held-out",
        resize_filter=protocol.resize_filter,
        processes=processes,
    )
    work_dir = (options.work_dir or cache_dir / "work").expanduser()
    steps = steps_of(pipe, options.num_inference_steps)
    return _Judge(pipe, steps, protocol, network, reference, processes, dataset, work_dir)


def _protocol(options: GuideOptions) -> "EvaluationProtocol":
    """Return how one metric of one feature network is computed."""
    from spikediff.evaluation.features import find_features
    from spikediff.evaluation.protocol import EvaluationProtocol, Measurement

    find_features(options.features)
    protocol = EvaluationProtocol(
        name="guide",
        summary="the held-out tenth of the training split, to choose a guidance scale by",
        caveat="chosen on few real images; report quality by `spikediff evaluate --threshold`",
        num_samples=options.num_samples,
        measurements=(Measurement(options.features, (_metric(options)[0],)),),
        reference_split="train",
    )
    fewest = protocol.fewest_samples(protocol.measurements)
    if options.num_samples < fewest:
        raise UserError(f"--num-samples {options.num_samples}: {options.metric} needs {fewest}")
    return protocol


def _measure(judge: _Judge, options: GuideOptions, scale: float, repeat: int) -> float:
    """Return the metric of the images of one scale and one range of seeds."""
    from spikediff.evaluation.feature_cache import features
    from spikediff.evaluation.run import compute_scores

    guidance = scale if options.layers is None else {options.layers: scale}
    source = guided_images(
        judge.pipe, guidance, options.seed, judge.num_inference_steps, options.batch_size
    )
    count, protocol = options.num_samples, judge.protocol
    found = features(
        source,
        range(repeat * count, (repeat + 1) * count),
        judge.network,
        judge.work_dir,
        f"threshold {scale:g}",
        resize_filter=protocol.resize_filter,
        processes=judge.processes,
    )
    [part] = protocol.measurements
    value = compute_scores(protocol, part, found, judge.reference)[options.metric]
    first = options.seed + repeat * count
    print(f"threshold {scale:g}, seeds {first}-{first + count - 1}: {value:.5g}", flush=True)
    return value


def _print(found: "GuidanceSearch", judge: _Judge, options: GuideOptions, notes: list[str]) -> None:
    print(
        f"\n{options.features} {options.metric} "
        f"({'lower' if _metric(options)[1] else 'higher'} is better): {options.num_samples} "
        f"images per measurement against {len(judge.reference)} held-out images of "
        f"{judge.dataset}/train"
    )
    if found.curve is not None:
        _print_curve(found.curve)
    if found.confirmation is not None:
        print("\non fresh seeds:")
        _print_curve(found.confirmation)
    print()
    print(wrapped(_verdict(found), *(f"Note: {note}" for note in notes)))


def _print_curve(curve: "GuidanceCurve") -> None:
    print(f"{'threshold':>9}  {'mean ± std':>20}  {'gain ± standard error':>24}")
    for row in curve.content():
        value = f"{row['mean']:.5g} ± {row['std']:.3g}"
        gain = f"{row['gain']:+.3g} ± {row['gain_standard_error']:.2g}"
        print(f"{row['threshold']:>9g}  {value:>20}  {gain if row['threshold'] != 1 else '':>24}")


def _verdict(found: "GuidanceSearch") -> str:
    best = "" if found.curve is None else f"{found.curve.best:g}"
    return {
        "confirmed gain": f"Use --threshold {best}: its gain exceeds two standard errors, on the "
        "seeds of the search and on fresh ones.",
        "within noise": f"Within noise: the gain of the best, {best}, may be chance. Keep "
        "the thresholds, or take more --seeds and --num-samples.",
        "no gain": f"No gain: none is better than the trained thresholds; the next is {best}.",
        "not confirmed": f"Not confirmed: {best} gains on the seeds of the search, but the budget "
        "ended before fresh seeds could confirm it.",
        "not measured": "Not measured: the budget ended before two repeats were complete; the "
        "same command continues.",
    }[found.verdict]


def _content(
    found: "GuidanceSearch", judge: _Judge, options: GuideOptions, notes: list[str]
) -> dict[str, Any]:
    """Return the report, without times or paths."""
    from spikediff.evaluation.sources import public_name

    repeats = options.seeds * (1 if found.confirmation is None else 2)
    return found.content() | {
        "metric": options.metric,
        "lower_is_better": _metric(options)[1],
        "features": {key: getattr(judge.network, key) for key in ("name", "mode", "fingerprint")},
        "dataset": public_name(judge.dataset),
        "reference": {"split": "train, held-out tenth", "images": len(judge.reference)},
        "layers": options.layers,
        "num_samples": options.num_samples,
        "repeats": options.seeds,
        "seeds": {"first": options.seed, "last": options.seed + repeats * options.num_samples - 1},
        "num_inference_steps": judge.num_inference_steps,
        "scheduler": type(judge.pipe.scheduler).__name__,
        "notes": notes,
    }
