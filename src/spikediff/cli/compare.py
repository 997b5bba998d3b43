"""`spikediff compare A B C`: models side by side in one table and one figure."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import tyro

from spikediff.cli.arguments import OutputFile
from spikediff.cli.comparison import ComparedModel, ModelComparison
from spikediff.cli.energy import Costs, EnergyOptions
from spikediff.cli.energy import measure as measure_energy
from spikediff.cli.evaluate import EvaluateOptions, Quality
from spikediff.cli.evaluate import measure as measure_quality
from spikediff.cli.options import (
    SHIPPED,
    BatchSize,
    CompilableSource,
    Device,
    Flat,
    NumImages,
    Report,
    Sampling,
    Seed,
    Source,
    Steps,
)
from spikediff.cli.outputs import FIGURE_FORMATS, write_text
from spikediff.errors import UserError, suggestion
from spikediff.progress import at_work


@dataclass(frozen=True)
class CompareOptions:
    """Compare models: quality with its floor, energy, T x rate, speed and size.

    A source may have its own options, as in `runs/x@steps=10,scheduler=ddim`: steps, scheduler,
    execution, threshold (one number) and name, the title of its column.
    """

    sources: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar="SOURCE ...",
            help=f"{SHIPPED}, run folder or pipeline's folder, each with @options if any.",
        ),
    ]
    num_inference_steps: Steps = None
    quality: bool = True
    """Whether to measure quality, which takes longest."""
    how: Flat[Quality] = Quality()
    seed: Seed = 0
    num_images: NumImages = 16
    costs: Costs = "45nm"
    batch_size: BatchSize = 64
    device: Device = "auto"
    markdown: Annotated[Path | None, OutputFile()] = None
    """Also write the table as Markdown."""
    latex: Annotated[Path | None, OutputFile()] = None
    """Also write the table as LaTeX (booktabs)."""
    figure: Annotated[Path | None, OutputFile(FIGURE_FORMATS)] = None
    """Also plot quality against energy, or time against energy without quality: .svg, .pdf or
    .png."""
    report: Flat[Report] = Report()


def run(options: CompareOptions) -> None:
    print(measure(options).table())


def measure(options: CompareOptions) -> ModelComparison:
    """Measure all sources and write the files; refuse a wrong option before any work."""
    if not options.sources:
        raise UserError("spikediff compare: give one or more models, as in: compare digits mnist")
    sources = [_Source.read(text, options) for text in options.sources]
    names = _names(sources)
    if options.quality:
        from spikediff.evaluation.protocol import load_protocol

        load_protocol(options.how.protocol)
    elif options.how != Quality():
        raise UserError("--no-quality: options of quality have no effect; omit either")
    for source in sources:  # errors before minutes of work
        source.check()
    models = [_measured(s, name, options) for s, name in zip(sources, names, strict=True)]
    compared = ModelComparison(tuple(models), options.costs, options.num_images)
    _write(compared, options)
    return compared


@dataclass(frozen=True)
class _Source:
    """A model and how it runs; None stands for the default."""

    text: str  # as typed
    folder: Path
    steps: int | None = None
    scheduler: str | None = None
    execution: Any = None
    threshold: str | None = None
    name: str | None = None  # title of its column

    @classmethod
    def read(cls, text: str, options: CompareOptions) -> "_Source":
        """Read `SOURCE` or `SOURCE@key=value,...`."""
        from spikediff.pretrained import find_source

        path, at, behind = text.rpartition("@")
        if not at or "=" not in behind or Path(text).exists():
            return cls(text, find_source(Path(text)), options.num_inference_steps)
        pairs = [part.partition("=")[::2] for part in behind.split(",")]
        given = dict(pairs)
        if len(given) < len(pairs):
            raise UserError(f"{text}: an option is given twice; give each once")
        known = ("steps", "scheduler", "execution", "threshold", "name")
        for key, value in given.items():
            if key not in known:
                raise UserError(f"{text}: no option {key!r}; {suggestion(key, known)}")
            if not value:
                raise UserError(f"{text}: {key} has no value; give {key}=VALUE")
        steps = given.pop("steps", None)
        if steps is not None and not (steps.isascii() and steps.isdigit() and int(steps) > 0):
            raise UserError(f"{text}: steps={steps} must be a whole number, 1 or more")
        calls = options.num_inference_steps if steps is None else int(steps)
        return cls(text, find_source(Path(path)), calls, **given)

    @property
    def short(self) -> str:
        """The text without the folders above the last."""
        path, at, behind = self.text.rpartition("@")
        if not at or "=" not in behind:
            path, at, behind = self.text, "", ""
        return f"{Path(path).name or path}{at}{behind}"

    @property
    def sampling(self) -> Sampling:
        """How its images are generated."""
        return Sampling(self.steps, threshold=self.threshold)

    def check(self) -> None:
        """Refuse a source without a model, or with an option that does not fit it."""
        try:
            self.sampling.steps(self.pipeline)
            with self.sampling.guided(self.pipeline):
                pass
        except UserError as error:
            said = str(error)
            names_it = said.startswith(f"{self.folder}:")
            raise UserError(said if names_it else f"{self.text}: {said}") from None

    @cached_property
    def pipeline(self) -> Any:
        """The pipeline on the CPU, as it was saved."""
        from spikediff.hub.load import load_pipeline

        return load_pipeline(self.folder, self.scheduler, execution=self.execution)

    @property
    def options(self) -> dict[str, Any]:
        """The options of its own, for JSON."""
        return {k: v for k, v in asdict(self).items() if k not in ("text", "folder", "name")}


def _names(sources: Sequence[_Source]) -> list[str]:
    """Return the column titles, short if they differ; refuse a source that is given twice."""
    short = [source.name or source.short for source in sources]
    names = [
        each if short.count(each) == 1 or source.name else source.text
        for each, source in zip(short, sources, strict=True)
    ]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{twice}: given twice; distinguish them by SOURCE@name=TITLE")
    return names


def _measured(source: _Source, name: str, options: CompareOptions) -> ComparedModel:
    from spikediff.diffusion.loop import networks_of

    networks = networks_of(source.pipeline).values()
    tensors = [t for n in networks for t in (*n.parameters(), *n.buffers())]
    quality, left_out = _quality(source, options) if options.quality else (None, None)
    energies = _energy(source, options)
    with at_work(f"{name}: time of one thread"):
        seconds = _seconds_per_image(source, options)
    return ComparedModel(
        name=name,
        source=source.text,
        options=source.options,
        network=" + ".join(type(network).__name__ for network in networks),
        parameters=sum(network.num_parameters() for network in networks),
        bytes=sum(tensor.nbytes for tensor in tensors),
        seconds_per_image=seconds,
        quality=quality,
        quality_left_out=left_out,
        **energies,
    )


def _quality(source: _Source, options: CompareOptions) -> tuple[dict[str, Any] | None, str | None]:
    """Return the result of an evaluation, or why there is none."""
    from spikediff.evaluation.plan import NoFeatureNetworkError

    wanted = EvaluateOptions(
        CompilableSource(source.folder, source.scheduler, source.execution, options.device),
        options.how,
        seed=options.seed,
        num_inference_steps=source.steps,
        threshold=source.threshold,
        batch_size=options.batch_size,
    )
    try:
        return measure_quality(wanted), None
    except NoFeatureNetworkError as error:
        return None, str(error)
    except UserError as error:
        raise UserError(f"{source.text}: {error}; --no-quality skips quality") from None


def _energy(source: _Source, options: CompareOptions) -> dict[str, Any]:
    """Return energies per image, T x rate, T and network calls, by the names of `ComparedModel`."""
    import torch

    from spikediff.diffusion.model import ann_counterpart

    has_counterpart = False
    with suppress(UserError), torch.device("meta"):  # without weights: the meter makes its own
        ann_counterpart(source.pipeline.components.get("unet"))
        has_counterpart = True
    measured = measure_energy(
        EnergyOptions(
            Source(source.folder, source.scheduler, source.execution, options.device),
            options.num_images,
            options.seed,
            replace(source.sampling, batch_size=options.num_images),
            costs=options.costs,
            compare=has_counterpart,
        )
    )
    report, comparison = measured.report, measured.comparison
    found: dict[str, Any] = {
        "network_calls": len(report.timesteps),
        "spiking_steps": _spiking_steps(source.pipeline, report),
        "spikes_per_synapse": report.spikes_per_synapse,
    }
    if report.spiking_steps is None or comparison is None:
        column = "ordinary" if report.spiking_steps is None else "spiking"
        return found | {"energy_pj": {column: report.energy_per_image_pj}}
    columns = comparison.columns
    plain = {key: c.plain.energy_per_image_pj for key, c in columns.items() if c.plain}
    whole = {key: c.whole.energy_per_image_pj for key, c in columns.items() if c.whole}
    return found | {
        "energy_pj": plain,
        "energy_whole_pj": whole,
        "activation_bits": comparison.activation_bits,
        "spikes_per_synapse_by_changes": columns["spiking_by_changes"].spikes_per_synapse,
    }


def _spiking_steps(pipe: Any, report: Any) -> int | None:
    """Return T of the configurations; the meter only sees that of the first neurons."""
    from spikediff.diffusion.loop import networks_of

    if report.spiking_steps is None:
        return None
    steps: list[int] = [n.config.get("spiking_steps") or 0 for n in networks_of(pipe).values()]
    return max(steps, default=0) or int(report.spiking_steps)


def _seconds_per_image(source: _Source, options: CompareOptions) -> float:
    """Return the CPU time of one thread after a warm-up, compiled if that is exact."""
    from spikediff.hub.load import load_pipeline

    pipe = load_pipeline(
        source.folder, source.scheduler, execution=source.execution, to_generate=True
    )
    pipe.set_progress_bar_config(disable=True)
    steps = source.sampling.steps(pipe)
    seeds = range(options.seed, options.seed + options.num_images)
    with _one_thread(), source.sampling.guided(pipe):
        pipe(seeds=seeds, num_inference_steps=min(2, steps), output_type="pt")
        started = time.process_time()  # other work on the machine does not count
        pipe(seeds=seeds, num_inference_steps=steps, output_type="pt")
        return (time.process_time() - started) / len(seeds)


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _write(compared: ModelComparison, options: CompareOptions) -> None:
    for path, made in ((options.markdown, compared.markdown), (options.latex, compared.latex)):
        if path is not None:
            write_text(path, made() + "\n")
    if options.figure is not None:
        compared.plot(options.figure)
    options.report.write(compared.to_dict())
