"""`spikediff vary SOURCE`: variations of a picture."""

from dataclasses import dataclass
from functools import partial

from spikediff.cli.options import (
    OUTPUTS,
    CompilableSource,
    Flat,
    FolderReport,
    NumImages,
    Sampling,
    Seed,
)
from spikediff.cli.pictures import Picture, Strength, edit_seeds, write_edit


@dataclass(frozen=True)
class VaryOptions:
    """Generate variations of a picture: one PNG per seed, and a grid with the original."""

    model: Flat[CompilableSource]
    picture: Flat[Picture] = Picture()
    strength: Strength = 0.5
    num_images: NumImages = 8
    seed: Seed = 0
    sampling: Flat[Sampling] = Sampling()
    report: Flat[FolderReport] = FolderReport(output=OUTPUTS / "vary")


def run(options: VaryOptions) -> None:
    from spikediff.editing.vary import vary

    pipe, source = options.model.load(to_generate=True), options.model.source
    picture = options.picture.open(source, pipe)
    seeds = range(options.seed, options.seed + options.num_images)
    edit = partial(vary, pipe, picture, strength=options.strength)
    made = edit_seeds(pipe, seeds, options.sampling, edit)
    facts = {"strength": options.strength, "seeds": [seeds[0], seeds[-1]]}
    pictures, grid = {**made, "image": picture}, [picture, *made.values()]
    write_edit(source, options.sampling, options.report, pipe, pictures, grid, facts)
