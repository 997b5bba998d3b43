"""`spikediff invert SOURCE`: the noise of a picture, and the picture generated from it."""

from dataclasses import dataclass
from typing import Annotated, Any

from spikediff.cli.arguments import Range
from spikediff.cli.options import OUTPUTS, CompilableSource, Flat, FolderReport, Sampling
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
    if sampling.batch_size != Sampling().batch_size:
        raise UserError("--batch-size: one picture is inverted; omit it")

    from safetensors.torch import save_file

    from spikediff.editing.invert import invert, regenerate

    pipe = options.model.load(to_generate=True)
    picture = options.picture.open(options.model.source, pipe)
    steps = sampling.steps(pipe)
    with sampling.guided(pipe):
        call = {**sampling.one_class(pipe), "return_dict": False}
        (noise,) = invert(pipe, picture, steps, options.num_iterations, **call)
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
    write_edit(source, sampling, options.report, pipe, pictures, grid, figures, (_NOISE,))
    save_file({"latents": noise.cpu().contiguous()}, options.report.output / _NOISE)
    for name, value in figures.items():
        print(f"{name:<28} {value:.4g}")


def _mse(a: Any, b: Any) -> float:
    """Return the mean squared error between two PIL images, for pixels in [0, 1]."""
    import numpy as np

    return float(np.square(np.asarray(a, float) / 255 - np.asarray(b, float) / 255).mean())
