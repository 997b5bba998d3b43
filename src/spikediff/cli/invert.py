"""`spikediff invert SOURCE`: the noise of a picture, and the picture generated from it."""

from dataclasses import dataclass
from typing import Annotated, Any

from spikediff.cli.arguments import Range
from spikediff.cli.options import (
    OUTPUTS,
    CompilableSource,
    Flat,
    FolderReport,
    Sampling,
    label_bar,
)
from spikediff.cli.pictures import Picture, write_edit
from spikediff.errors import UserError

_NOISE = "noise.safetensors"


@dataclass(frozen=True)
class InvertOptions:
    """Find the noise of a picture by DDIM inversion, reconstruct it, and print the error."""

    model: Flat[CompilableSource]
    picture: Flat[Picture] = Picture()
    num_iterations: Annotated[int, Range(1, 10**6)] = 1
    """Network calls per step of the inversion; more give a more exact inverse."""
    sampling: Flat[Sampling] = Sampling()
    report: Flat[FolderReport] = FolderReport(output=OUTPUTS / "invert")


def run(options: InvertOptions) -> None:
    sampling = options.sampling
    sampling.check_one_class()
    if options.model.scheduler is not None:
        raise UserError("--scheduler: inversion uses DDIM's steps; omit it")
    if sampling.batch_size not in (1, Sampling().batch_size):
        raise UserError("--batch-size: one picture is inverted; omit it")

    from safetensors.torch import save

    from spikediff.editing.invert import ddim_of, invert, regenerate
    from spikediff.files.writing import write_whole

    pipe = options.model.load(to_generate=True)
    picture = options.picture.open(options.model.source, pipe)
    steps = sampling.steps(pipe)
    with sampling.guided(pipe):
        call = {**sampling.one_class(pipe), "return_dict": False}
        label_bar(pipe, "inverting")
        (noise,) = invert(pipe, picture, steps, options.num_iterations, **call)
        label_bar(pipe, "reconstructing")
        ((again,),) = regenerate(pipe, noise, steps, **call)
    figures = {
        "num_inference_steps": steps,
        "num_iterations": options.num_iterations,
        "mse": _mse(picture, again),
        "noise_mean": float(noise.mean()),
        "noise_std": float(noise.std()),
    }
    pictures = {"image": picture, "reconstruction": again}
    grid, source = [picture, again], options.model.source
    facts = {"scheduler": type(ddim_of(pipe.scheduler)).__name__, **figures}
    write_edit(source, sampling, options.report, pipe, pictures, grid, facts, (_NOISE,))
    latents = save({"latents": noise.cpu().contiguous()})
    write_whole(options.report.output / _NOISE, latents)
    for name, value in figures.items():
        print(f"{name:<28} {value:.4g}")


def _mse(a: Any, b: Any) -> float:
    """Return the mean squared error between two PIL images, for pixels in [0, 1]."""
    import numpy as np

    return float(np.square(np.asarray(a, float) / 255 - np.asarray(b, float) / 255).mean())
