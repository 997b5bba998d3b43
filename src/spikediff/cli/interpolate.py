"""`spikediff interpolate SOURCE`: the images between those of two seeds."""

from dataclasses import dataclass
from typing import Annotated

from spikediff.cli.arguments import Range
from spikediff.cli.options import (
    OUTPUTS,
    CompilableSource,
    Flat,
    FolderReport,
    NumImages,
    Sampling,
    label_bar,
)
from spikediff.cli.pictures import write_edit
from spikediff.errors import UserError


@dataclass(frozen=True)
class InterpolateOptions:
    """Generate the images between those of two or more seeds: PNGs, and a grid."""

    model: Flat[CompilableSource]
    seeds: Annotated[tuple[int, ...], Range(0, 2**62)] = (0, 1)
    """Two or more seeds, visited in turn."""
    num_images: NumImages = 9
    sampling: Flat[Sampling] = Sampling()
    report: Flat[FolderReport] = FolderReport(output=OUTPUTS / "interpolate")


def run(options: InterpolateOptions) -> None:
    sampling = options.sampling
    sampling.check_one_class()
    if not 1 < len(options.seeds) <= options.num_images:
        raise UserError("--seeds: give two or more, and --num-images at least as many")

    from spikediff.editing.interpolate import interpolate_seeds

    pipe = options.model.load(to_generate=True)
    if getattr(pipe, "makes_signals", False):
        raise UserError("interpolate: the network makes signals, and only images can be edited")
    call = {**sampling.one_class(pipe), "num_inference_steps": sampling.steps(pipe)}
    label_bar(pipe, "interpolating")
    with sampling.guided(pipe):
        images = interpolate_seeds(
            pipe, options.seeds, options.num_images, sampling.batch_size, **call
        )
    pictures = {f"image-{k:03d}": image for k, image in enumerate(images)}
    facts = {"seeds": list(options.seeds)}
    write_edit(options.model.source, sampling, options.report, pipe, pictures, images, facts)
