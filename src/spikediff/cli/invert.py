"""`spikediff invert SOURCE`: the noise that a picture comes from, and what comes back of it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

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
    load_editor,
    open_picture,
    write_pictures,
)
from spikediff.errors import UserError


@dataclass(frozen=True)
class InvertOptions:
    """Find a picture's noise by DDIM backwards, make the picture of it again, tell the error."""

    source: Annotated[Path, tyro.conf.Positional]
    """A pipeline's folder or a run folder."""
    picture: PictureOptions = field(default_factory=Picture)
    num_iterations: int = 1
    """Network calls a step on the way to the noise; more come nearer to the exact inverse."""
    output: Path = Path("inverted")
    """Folder for the reconstruction and for noise.safetensors."""
    overwrite: Overwrite = False
    sampling: SamplingOptions = field(default_factory=Sampling)
    json: Path | None = None
    """Also write the figures for a program to read."""


def run(arguments: list[str]) -> int:
    """Invert, reconstruct and measure."""
    options = parse(InvertOptions, arguments, "spikediff invert")
    check_picture(options.picture)
    check_new_folder(options.output, options.overwrite)
    if options.sampling.scheduler is not None:
        raise UserError("--scheduler: inversion has steps of its own, DDIM's; leave it out")

    from spikediff.hub.load import steps_of

    pipe = load_editor(options.source, options.sampling, {"unet": "SpikingInversionPipeline"})
    picture = open_picture(options.source, options.picture, pipe)
    steps = steps_of(pipe, options.sampling.num_inference_steps)
    asked = conditions_of(options.sampling)
    noise = pipe.invert(picture, steps, options.num_iterations, **asked).latents
    (again,) = pipe(noise, num_inference_steps=steps, **asked).images
    named = {"image": picture, "reconstruction": again}
    files = write_pictures(options.output, options.overwrite, named, [picture, again])
    files.append(_save(noise, options.output))
    figures = {
        "num_inference_steps": steps,
        "num_iterations": options.num_iterations,
        "mse": _mse(picture, again),
        "noise_mean": float(noise.mean()),
        "noise_std": float(noise.std()),
    }
    for name, value in figures.items():
        print(f"{name:<28} {value:.4g}")
    print(f"reconstruction.png and noise.safetensors in {options.output}")
    told = {"source": str(options.source), "pipeline": type(pipe).__name__, **asked}
    write_json(options.json, {**told, **figures, "files": files})
    return 0


def _mse(a: Any, b: Any) -> float:
    """Return the mean squared error of two PIL images, in the units of [0, 1] images."""
    import numpy as np

    return float(np.square(np.asarray(a, float) / 255 - np.asarray(b, float) / 255).mean())


def _save(noise: Any, folder: Path) -> str:
    """Write the noise for `latents=` of a pipeline; return the path."""
    from safetensors.torch import save_file

    path = folder / "noise.safetensors"
    save_file({"latents": noise.cpu().contiguous()}, path)
    return str(path)
