"""`spikediff inpaint SOURCE`: part of a picture made anew, the rest kept bit for bit."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    open_file,
    open_picture,
    write_pictures,
)
from spikediff.errors import UserError

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class InpaintOptions:
    """Make the masked part of a picture anew: one PNG a seed, and a grid beside the original."""

    source: Annotated[Path, tyro.conf.Positional]
    """A pipeline's folder or a run folder."""
    picture: PictureOptions = field(default_factory=Picture)
    mask: Path | None = None
    """A picture that is white where pixels are made anew; grey is cut at one half."""
    mask_box: tuple[int, int, int, int] | None = None
    """Instead of a file: X0 Y0 X1 Y1, the box from one pixel up to before another."""
    output: Path = Path("inpainted")
    """Folder for the pictures."""
    overwrite: Overwrite = False
    num_images: int = 8
    """How many."""
    seed: int = 0
    """Seed of the first; the others follow, one each."""
    strength: float | None = None
    """Share of the steps that are made; below 1 they start from what is behind the mask."""
    num_resamples: int | None = None
    """How often every step is made (RePaint): 1, or more for parts that fit better together."""
    jump_length: int | None = None
    """After how many steps it goes back as many."""
    token_margin: int | None = None
    """Tokens around the mask that are made anew, too (Spiking-Diffusion)."""
    sampling: SamplingOptions = field(default_factory=Sampling)
    json: Path | None = None
    """Also write what was done, for a program to read."""


_OF_IMAGES = ("strength", "num_resamples", "jump_length")
_OF_TOKENS = ("token_margin",)


def run(arguments: list[str]) -> int:
    """Inpaint as the arguments say."""
    options = parse(InpaintOptions, arguments, "spikediff inpaint")
    check_picture(options.picture)
    check_new_folder(options.output, options.overwrite)
    if (options.mask is None) == (options.mask_box is None):
        raise UserError("give --mask FILE or --mask-box X0 Y0 X1 Y1, one of them")
    if options.mask is not None and not options.mask.is_file():
        raise UserError(f"--mask {options.mask}: no such file")

    from spikediff.hub.load import steps_of

    editors = {"unet": "SpikingInpaintPipeline", "decoder": "VQSpikingInpaintPipeline"}
    pipe = load_editor(options.source, options.sampling, editors)
    picture = open_picture(options.source, options.picture, pipe)
    mask = _mask(options, picture)
    steps = steps_of(pipe, options.sampling.num_inference_steps)
    seeds = range(options.seed, options.seed + options.num_images)
    call = {"image": picture, "mask_image": mask, "num_inference_steps": steps}
    images = edited(pipe, seeds, options.sampling.batch_size, **call, **_more(options, pipe))
    named = {f"seed-{seed:06d}": image for seed, image in zip(seeds, images, strict=True)}
    named |= {"image": picture, "masked": _masked(picture, mask)}
    files = write_pictures(
        options.output, options.overwrite, named, [picture, named["masked"], *images]
    )
    made = mask.histogram()[255]
    print(f"{made} of {picture.width * picture.height} pixels made anew, the others as they were")
    print(f"{len(images)} images, {Path(files[-1]).name} in {options.output}")
    write_json(
        options.json,
        {
            "source": str(options.source),
            "pipeline": type(pipe).__name__,
            "scheduler": type(pipe.scheduler).__name__,
            "num_inference_steps": steps,
            **_more(options, pipe),
            "masked_pixels": made,
            "seeds": [seeds[0], seeds[-1]],
            "files": files,
        },
    )
    return 0


def _mask(options: InpaintOptions, picture: "Image.Image") -> "Image.Image":
    """Return the mask, 0 and 255; refuse one that marks nothing, which is a mistake here."""
    from PIL import Image

    if options.mask is not None:
        # What a picture leaves transparent, nobody has painted white.
        grey = open_file(options.mask, "--mask", ground=0).convert("L")
        mask = grey.point([0] * 128 + [255] * 128)
    else:
        x0, y0, x1, y1 = options.mask_box or (0, 0, 0, 0)
        inside = 0 <= x0 < x1 <= picture.width and 0 <= y0 < y1 <= picture.height
        if not inside:
            raise UserError(
                f"--mask-box {x0} {y0} {x1} {y1}: no box in a picture of "
                f"{picture.width}x{picture.height}"
            )
        mask = Image.new("L", picture.size)
        mask.paste(255, (x0, y0, x1, y1))
    if mask.getbbox() is None:
        raise UserError(f"--mask {options.mask}: marks nothing; white is what is made anew")
    return mask


def _masked(picture: "Image.Image", mask: "Image.Image") -> "Image.Image":
    """Return the picture with grey where the mask is."""
    from PIL import Image

    grey = Image.new(picture.mode, picture.size, "grey")
    return Image.composite(grey, picture, mask)


def _more(options: InpaintOptions, pipe: Any) -> dict[str, Any]:
    """Return the options that were given; refuse those of the other kind of network."""
    of_tokens = "decoder" in pipe.components
    for name in _OF_IMAGES if of_tokens else _OF_TOKENS:
        if getattr(options, name) is not None:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag}: {type(pipe).__name__} has none; leave it out")
    given = {name: getattr(options, name) for name in (*_OF_IMAGES, *_OF_TOKENS)}
    told = {name: value for name, value in given.items() if value is not None}
    return told | conditions_of(options.sampling)
