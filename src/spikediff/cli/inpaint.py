"""`spikediff inpaint SOURCE`: replace a part of a picture and keep the rest bit for bit."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from spikediff.cli.arguments import Range
from spikediff.cli.options import (
    OUTPUTS,
    CompilableSource,
    Flat,
    FolderReport,
    NumImages,
    Sampling,
    Seed,
)
from spikediff.cli.pictures import Picture, Strength, edit_seeds, open_file, write_edit
from spikediff.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

_REPEATS = Range(1, 10**6)


@dataclass(frozen=True)
class InpaintOptions:
    """Generate the masked part of a picture: one PNG per seed, and a grid with the original."""

    model: Flat[CompilableSource]
    picture: Flat[Picture] = Picture()
    mask: Path | None = None
    """A picture that is white (grey level 128 or more) where pixels are generated."""
    mask_box: tuple[int, int, int, int] | None = None
    """Instead of a file: the box X0 Y0 X1 Y1, without column X1 and row Y1."""
    strength: Strength = 1.0
    num_resamples: Annotated[int, _REPEATS] = 1
    """How often all steps but the first are made (RePaint); more make the parts fit better."""
    jump_length: Annotated[int, _REPEATS] = 1
    """The number of steps after which RePaint goes back as many."""
    token_margin: Annotated[int, Range(0, 10**9)] = 0
    """Width of the border of tokens around the mask to generate as well (Spiking-Diffusion)."""
    num_images: NumImages = 8
    seed: Seed = 0
    sampling: Flat[Sampling] = Sampling()
    report: Flat[FolderReport] = FolderReport(output=OUTPUTS / "inpaint")


def run(options: InpaintOptions) -> None:
    if (options.mask is None) == (options.mask_box is None):
        raise UserError("give either --mask FILE or --mask-box X0 Y0 X1 Y1")
    if options.mask is not None and not options.mask.is_file():
        raise UserError(f"--mask {options.mask}: no such file")

    from PIL import Image

    from spikediff.editing.inpaint import inpaint

    pipe, source = options.model.load(to_generate=True), options.model.source
    picture = options.picture.open(source, pipe)
    mask = _mask(options, picture)
    how: dict[str, Any] = {
        "strength": options.strength,
        "num_resamples": options.num_resamples,
        "jump_length": options.jump_length,
        "token_margin": options.token_margin,
    }
    seeds = range(options.seed, options.seed + options.num_images)
    edit = partial(inpaint, pipe, picture, mask, **how)
    made = edit_seeds(pipe, seeds, options.sampling, edit)
    masked = Image.composite(Image.new(picture.mode, picture.size, "grey"), picture, mask)
    pixels = mask.histogram()[255]
    print(f"{pixels} of {picture.width * picture.height} pixels generated, the others unchanged")
    facts = {**how, "masked_pixels": pixels, "seeds": [seeds[0], seeds[-1]]}
    pictures = {**made, "image": picture, "masked": masked}
    grid = [picture, masked, *made.values()]
    write_edit(source, options.sampling, options.report, pipe, pictures, grid, facts)


def _mask(options: InpaintOptions, picture: "Image.Image") -> "Image.Image":
    """Return the mask, with grey levels 0 and 255."""
    from PIL import Image

    if options.mask is not None:
        # A transparent mask is laid over black: transparent pixels are not white.
        grey = open_file(options.mask, "--mask", ground=0).convert("L")
        mask = grey.point([0] * 128 + [255] * 128)
    else:
        x0, y0, x1, y1 = options.mask_box or (0, 0, 0, 0)
        if not (0 <= x0 < x1 <= picture.width and 0 <= y0 < y1 <= picture.height):
            raise UserError(
                f"--mask-box {x0} {y0} {x1} {y1}: not a box inside the picture of "
                f"{picture.width}x{picture.height} pixels"
            )
        mask = Image.new("L", picture.size)
        mask.paste(255, (x0, y0, x1, y1))
    if mask.getbbox() is None:
        raise UserError(
            f"--mask {options.mask}: has no white pixels, so nothing would be generated"
        )
    return mask
