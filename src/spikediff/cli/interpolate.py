"""`spikediff interpolate SOURCE`: the images between those of two seeds."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from spikediff.cli.arguments import parse
from spikediff.cli.outputs import Overwrite, check_new_folder, write_json
from spikediff.cli.pictures import Sampling, SamplingOptions, conditions_of, write_pictures
from spikediff.errors import UserError


@dataclass(frozen=True)
class InterpolateOptions:
    """Generate the images on the way from one seed's to another's: PNGs, and a row of them."""

    source: Annotated[Path, tyro.conf.Positional]
    """A pipeline's folder or a run folder."""
    seeds: tuple[int, ...] = (0, 1)
    """Two seeds or more; the way leads through all of them."""
    output: Path = Path("interpolated")
    """Folder for the pictures."""
    overwrite: Overwrite = False
    num_images: int = 9
    """How many, the seeds' own images among them."""
    sampling: SamplingOptions = field(default_factory=Sampling)
    json: Path | None = None
    """Also write what was done, for a program to read."""


def run(arguments: list[str]) -> int:
    """Interpolate as the arguments say."""
    options = parse(InterpolateOptions, arguments, "spikediff interpolate")
    check_new_folder(options.output, options.overwrite)
    if not 1 < len(options.seeds) <= options.num_images:
        raise UserError("--seeds: give two or more, and --num-images at least as many")

    from spikediff.editing.interpolate import interpolate_seeds
    from spikediff.hub.load import load_pipeline, steps_of

    sampling = options.sampling
    pipe = load_pipeline(
        options.source, sampling.scheduler, sampling.device, sampling.event_driven, to_generate=True
    )
    steps = steps_of(pipe, sampling.num_inference_steps)
    call = {"num_inference_steps": steps, **conditions_of(sampling)}
    images = interpolate_seeds(pipe, options.seeds, options.num_images, sampling.batch_size, **call)
    named = {f"image-{k:03d}": image for k, image in enumerate(images)}
    files = write_pictures(options.output, options.overwrite, named, images)
    print(f"{len(images)} images, {Path(files[-1]).name} in {options.output}")
    write_json(
        options.json,
        {
            "source": str(options.source),
            "pipeline": type(pipe).__name__,
            "scheduler": type(pipe.scheduler).__name__,
            **call,
            "seeds": list(options.seeds),
            "files": files,
        },
    )
    return 0
