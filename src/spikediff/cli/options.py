"""The options that commands share, each with one text and one range, and their three groups.

`Source` is the model and how it runs, `Sampling` how images are generated, `Report` where results
go. A command takes whole groups, as in `model: Flat[Source]`, and single options.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro

from spikediff.cli.arguments import MODEL, OutputFile, Range
from spikediff.cli.outputs import Kind, check_new_folder, new_folder, write_text
from spikediff.errors import UserError, kind_of
from spikediff.pretrained import PRETRAINED, find_source

if TYPE_CHECKING:
    from spikediff.systems.sdm.threshold_guidance import Scale

Group = TypeVar("Group")
Flat = Annotated[Group, tyro.conf.arg(name="")]  # its options have no prefix

COUNT = Range(1, 10**8)
OUTPUTS = Path("outputs")  # by default a command writes to the folder of its name in it
SHIPPED = f"A shipped model ({', '.join(PRETRAINED)})"

SourceFolder = Annotated[
    Path,
    MODEL,
    tyro.conf.Positional,
    tyro.conf.arg(help=f"{SHIPPED}, a run folder, a pipeline folder, or USER/NAME on the Hub."),
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="SOURCE",
        instance_from_str=lambda typed: find_source(Path(typed[0])),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda value: [str(value)],
    ),
]
Scheduler = Annotated[
    str | None,
    tyro.conf.arg(
        metavar="NAME",
        help="A sampler listed by `spikediff info`; the pipeline's own by default.",
    ),
]
Execution = Annotated[
    Literal["counts", "spikes", "events", "delta"] | None,
    tyro.conf.arg(
        help="How the deployment form of an integer network runs; all give the same bits. The "
        "model's own by default."
    ),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    tyro.conf.arg(help="Where to compute: auto takes cuda, else mps (Apple), else cpu."),
]
Dataset = Annotated[
    str | None,
    tyro.conf.arg(metavar="NAME", help="The data set; that of the run's recipe by default."),
]
DataDir = Annotated[
    Path | None,
    tyro.conf.arg(
        metavar="FOLDER", help="The folder of the data sets; that of the run's recipe by default."
    ),
]
Split = Annotated[
    str | None, tyro.conf.arg(help="The split of the data set; the test split by default.")
]
NumImages = Annotated[int, COUNT, tyro.conf.arg(help="The number of images.")]
Seed = Annotated[
    int,
    Range(0, 2**62),
    tyro.conf.arg(help="The seed of the first image; image i has this seed + i."),
]
Steps = Annotated[
    int | None,
    COUNT,
    tyro.conf.arg(help="Network calls per image; by default 50, or all that the model has."),
]
BatchSize = Annotated[
    int,
    Range(1, 65_536),
    tyro.conf.arg(help="Images per batch; it does not change the generated images."),
]
Threshold = Annotated[
    str | None,
    tyro.conf.arg(
        metavar="SCALE",
        help="Threshold guidance: one factor (0.997), one per layer "
        "(stem=0.99,up_blocks=1.01), or one per step (0.98,0.99,1).",
    ),
]
GuidanceScale = Annotated[
    float | None,
    Range(0, 1e4),
    tyro.conf.arg(
        help="Strength of classifier-free guidance towards the class; 1 is the plain estimate."
    ),
]
Overwrite = Annotated[
    bool,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.arg(help="Replace the files that an earlier command of this kind wrote."),
]


@dataclass(frozen=True)
class Source:
    """Which model runs, and how."""

    source: SourceFolder
    scheduler: Scheduler = None
    execution: Execution = None
    device: Device = "auto"

    def load(self, **how: Any) -> Any:
        """Load the pipeline; `how` are further arguments of `load_pipeline`."""
        from spikediff.hub.load import load_pipeline

        return load_pipeline(
            self.source, self.scheduler, self.device, execution=self.execution, **how
        )


@dataclass(frozen=True)
class CompilableSource(Source):
    """Which model runs, and how, for commands that need only its images."""

    event_driven: Annotated[
        bool,
        tyro.conf.arg(
            help="Compile the networks for event-driven inference, which is faster on a CPU. Off "
            "by default, because rounding differs and may change an image."
        ),
    ] = False
    event_driven_weights: Annotated[
        Literal["float32", "int16", "int8"],
        tyro.conf.arg(
            help="Synapse weights with --event-driven: int16 is faster than float32, int8 faster "
            "still; their rounding changes more images (docs/performance.md)."
        ),
    ] = "float32"

    def load(self, **how: Any) -> Any:
        """Load the pipeline, compiled for inference if requested."""
        compiled = {"event_driven": self.event_driven, "weights": self.event_driven_weights}
        return super().load(**compiled, **how)


@dataclass(frozen=True)
class Sampling:
    """How images are generated."""

    num_inference_steps: Steps = None
    batch_size: BatchSize = 64
    threshold: Threshold = None
    class_labels: Annotated[
        tuple[str, ...],
        Range(0, 10**9),
        tyro.conf.arg(
            aliases=["--class-label"],
            metavar="CLASS ...",
            help="The classes of the images in turn, by name or number, for a model with classes.",
        ),
    ] = ()
    guidance_scale: GuidanceScale = None

    def steps(self, pipe: Any) -> int:
        """Return the network calls per image."""
        from spikediff.hub.load import steps_of

        return steps_of(pipe, self.num_inference_steps)

    def scale(self, pipe: Any) -> "Scale | None":
        """Return the scale of the threshold guidance, if any, of a pipeline with a denoiser."""
        if self.threshold is None:
            return None
        from spikediff.systems.sdm.threshold_guidance import parse_scale

        if "unet" not in pipe.components:
            raise UserError(f"--threshold: {kind_of(pipe)} has no image denoiser to guide")
        return parse_scale(self.threshold)

    def guided(self, pipe: Any) -> AbstractContextManager[None]:
        """Return a `with` block in which the pipeline samples with the threshold guidance."""
        if (scale := self.scale(pipe)) is None:
            return nullcontext()
        from spikediff.systems.sdm.threshold_guidance import threshold_guidance

        return threshold_guidance(pipe.unet, scale)

    def labels(self, pipe: Any) -> list[Any]:
        """Return the requested classes, as numbers if the model has classes."""
        from spikediff.diffusion.classes import class_names, class_network, class_numbers

        network = class_network(pipe)
        names = () if network is None else class_names(network)
        typed = [
            int(label) if label not in names and re.fullmatch(r"-?\d{1,9}", label) else label
            for label in map(str, self.class_labels)
        ]
        return typed if network is None else [class_numbers(network, label) for label in typed]

    def check_one_class(self) -> None:
        """Refuse several classes, before the model is loaded."""
        if len(self.class_labels) > 1:
            raise UserError("--class-labels: give a single class for all images")

    def one_class(self, pipe: Any) -> dict[str, Any]:
        """Return the pipeline's arguments for images of one class; empty without a class."""
        asked: dict[str, Any] = {"class_labels": next(iter(self.labels(pipe)), None)}
        asked |= {"guidance_scale": self.guidance_scale}
        return {name: value for name, value in asked.items() if value is not None}

    def facts(self, pipe: Any) -> dict[str, Any]:
        """Return the sampling settings for a report: the steps, and all options given."""
        asked = {
            "class_labels": self.labels(pipe) or None,
            "guidance_scale": self.guidance_scale,
            "threshold": self.threshold,
        }
        given = {name: value for name, value in asked.items() if value is not None}
        return {"num_inference_steps": self.steps(pipe), **given}

    def generate(
        self, pipe: Any, seeds: range, make: Callable[..., Any], in_turn: bool = False
    ) -> Iterator[Any]:
        """Yield what `make(seeds=..., num_inference_steps=..., ...)` returns, batch by batch.

        `make` is the pipeline, or a function that calls it. With `in_turn`, and without a
        given class, the images have all classes in turn.
        """
        from spikediff.diffusion.classes import classes_in_turn

        labels = (self.labels(pipe) * len(seeds))[: len(seeds)]
        call: dict[str, Any] = {"num_inference_steps": self.steps(pipe)}
        if self.guidance_scale is not None:
            call["guidance_scale"] = self.guidance_scale
        for first in range(0, len(seeds), self.batch_size):
            part = slice(first, first + self.batch_size)
            if labels:
                call["class_labels"] = labels[part]
            elif in_turn:
                call |= classes_in_turn(pipe, seeds[part])
            check_takes(pipe, make, call)
            label_bar(pipe, f"images {first + 1} to {first + len(seeds[part])} of {len(seeds)}")
            yield make(seeds=seeds[part], **call)


def label_bar(pipe: Any, label: str) -> None:
    """Set the label of a pipeline's progress bars."""
    wait = 0.2 if sys.stderr.isatty() else 4.0
    pipe.set_progress_bar_config(desc=label, unit="step", mininterval=wait)


def check_takes(pipe: Any, make: Callable[..., Any], call: dict[str, Any]) -> None:
    """Refuse arguments that a pipeline does not take."""
    known = signature(make).parameters
    for name in (name for name in call if name not in known):
        flag = name.replace("_", "-")
        raise UserError(f"--{flag} {call[name]}: {type(pipe).__name__} has no such option; omit it")


@dataclass(frozen=True)
class Report:
    """Where the results go."""

    json: Annotated[
        Path | None,
        OutputFile(),
        tyro.conf.arg(metavar="FILE", help="Also write the results, as JSON, to this file."),
    ] = None

    def write(self, results: Any) -> None:
        """Write the results as JSON, if requested."""
        if self.json is not None:
            write_text(self.json, json.dumps(results, indent=1) + "\n")


@dataclass(frozen=True, kw_only=True)
class FolderReport(Report):
    """Where the results go, for commands that write a folder."""

    output: Annotated[Path, tyro.conf.arg(metavar="FOLDER", help="The folder to write.")]
    overwrite: Overwrite = False

    def check(self) -> None:
        """Refuse a folder that cannot be written."""
        check_new_folder(self.output, self.overwrite)

    def folder(self, kind: Kind, source: Path | None = None) -> Path:
        """Make the folder; see `new_folder`."""
        return new_folder(self.output, kind, self.overwrite, source)
