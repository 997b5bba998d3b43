"""`spikediff vary SOURCE`: variations of a picture, by noise and back (image to image)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from spikediff.cli.arguments import parse
from spikediff.cli.outputs import Overwrite, check_new_folder, write_json
from spikediff.cli.pictures import (
    Picture,
    PictureOptions,
    Sampling,
    SamplingOptions,
    check_picture,
    conditions_of,
    edited,
    load_editor,
    open_picture,
    write_pictures,
)


@dataclass(frozen=True)
class VaryOptions:
    """Make variations of a picture: one PNG a seed, and a grid beside the original."""

    source: Annotated[Path, tyro.conf.Positional]
    """A pipeline's folder or a run folder."""
    picture: PictureOptions = field(default_factory=Picture)
    strength: float = 0.5
    """How far: the share of the steps that are made, above 0 up to 1; of tokens, the share that
    is drawn anew."""
    output: Path = Path("variations")
    """Folder for the pictures."""
    overwrite: Overwrite = False
    num_images: int = 8
    """How many."""
    seed: int = 0
    """Seed of the first; the others follow, one each."""
    sampling: SamplingOptions = field(default_factory=Sampling)
    json: Path | None = None
    """Also write what was done, for a program to read."""


def run(arguments: list[str]) -> int:
    """Vary as the arguments say."""
    options = parse(VaryOptions, arguments, "spikediff vary")
    check_picture(options.picture)
    check_new_folder(options.output, options.overwrite)

    from spikediff.hub.load import steps_of

    editors = {"unet": "SpikingImg2ImgPipeline", "decoder": "VQSpikingImg2ImgPipeline"}
    pipe = load_editor(options.source, options.sampling, editors)
    picture = open_picture(options.source, options.picture, pipe)
    steps = steps_of(pipe, options.sampling.num_inference_steps)
    seeds = range(options.seed, options.seed + options.num_images)
    call = {"image": picture, "strength": options.strength, "num_inference_steps": steps}
    asked = conditions_of(options.sampling)
    images = edited(pipe, seeds, options.sampling.batch_size, **call, **asked)
    named = {f"seed-{seed:06d}": image for seed, image in zip(seeds, images, strict=True)}
    files = write_pictures(
        options.output, options.overwrite, {**named, "image": picture}, [picture, *images]
    )
    print(f"{len(images)} images, {Path(files[-1]).name} in {options.output}")
    write_json(
        options.json,
        {
            "source": str(options.source),
            "pipeline": type(pipe).__name__,
            "scheduler": type(pipe.scheduler).__name__,
            "num_inference_steps": steps,
            "strength": options.strength,
            **asked,
            "seeds": [seeds[0], seeds[-1]],
            "files": files,
        },
    )
    return 0
