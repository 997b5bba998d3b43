"""`spikediff sample SOURCE`: generate images."""

import shlex
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal

from spikediff.cli.arguments import Range
from spikediff.cli.options import (
    COUNT,
    OUTPUTS,
    CompilableSource,
    Flat,
    FolderReport,
    Sampling,
    Seed,
    check_takes,
)
from spikediff.cli.outputs import counted, say_where
from spikediff.pretrained import name_of

_NUM_IMAGES = 64  # without classes
_GIF_IMAGES = 64  # images in the GIF's frames: those of the first batch, at most so many


@dataclass(frozen=True)
class SampleOptions:
    """Generate images: one PNG each, a grid, and a GIF of the denoising.

    A model with classes generates all of them in turn, unless some are given. A model of signals
    writes signals.npy [N, C, L] and a plot.
    """

    model: Flat[CompilableSource]
    report: Flat[FolderReport] = FolderReport(output=OUTPUTS / "sample")
    num_images: Annotated[int | None, COUNT] = None
    """The number of images; by default one for each of --class-labels, else 64."""
    seed: Seed = 0
    sampling: Flat[Sampling] = Sampling()
    eta: Annotated[float, Range(0, 1)] = 0.0
    """Share of fresh noise in DDIM's steps."""
    temperature: Annotated[float | None, Range(0, 1e6)] = None
    """Divides the logits of tokens (Spiking-Diffusion); the model's own by default."""
    top_p: Annotated[float | None, Range(1e-12, 1)] = None
    """Probability of the nucleus from which tokens are drawn (Spiking-Diffusion)."""
    unmasking: Literal["ancestral", "confidence"] | None = None
    """The order in which tokens are unmasked (Spiking-Diffusion)."""
    gif: bool = True
    """Whether to write the GIF, which shows the images of the first batch."""

    @property
    def seeds(self) -> range:
        """One seed per image."""
        many = self.num_images or len(self.sampling.class_labels) or _NUM_IMAGES
        return range(self.seed, self.seed + many)


def run(options: SampleOptions) -> None:
    model, sampling, report = options.model, options.sampling, options.report
    pipe = model.load(to_generate=True)
    wanted: dict[str, Any] = {"eta": options.eta or None, "temperature": options.temperature}
    wanted |= {"top_p": options.top_p, "unmasking": options.unmasking}
    call = {name: value for name, value in wanted.items() if value is not None}
    check_takes(pipe, pipe, call)
    signals = getattr(pipe, "makes_signals", False)
    with sampling.guided(pipe):
        write = _write_signals if signals else _write_images
        files, variances = write(pipe, call, options)
    figures = {"current_variance": variances} if variances else {}
    report.write(
        figures
        | {
            "source": str(model.source),
            "pipeline": type(pipe).__name__,
            "scheduler": type(pipe.components.get("scheduler")).__name__,
            "num_inference_steps": sampling.steps(pipe),
            "threshold": sampling.threshold,
            "class_labels": sampling.labels(pipe),
            "guidance_scale": sampling.guidance_scale,
            "event_driven": model.event_driven,
            "event_driven_weights": model.event_driven_weights if model.event_driven else None,
            "execution": model.execution,
            "seeds": [options.seeds[0], options.seeds[-1]],
            "files": [str(path) for path in files],
        }
    )
    if variances:
        print(
            f"variance of the synaptic currents over the spiking steps: {max(variances):.4f} at "
            f"most, {variances[-1]:.4f} after the last step"
        )
    made = counted(len(options.seeds), "signal" if signals else "image")
    names = ", ".join(p.name for p in files if not p.name.startswith("seed-"))
    then = f"inspect {shlex.quote(name_of(model.source))}"
    say_where(f"{made}, {names}", report.output, then)


def _write_images(
    pipe: Any, call: dict[str, Any], options: SampleOptions
) -> tuple[list[Path], list[float]]:
    """Generate and write images; return the paths, and the variance of the currents if any."""
    from spikediff.diffusion.outputs import image_grid, record_frames, save_gif

    folder = options.report.folder("pictures")
    frames: list[Any] = []
    keep = record_frames(frames, _GIF_IMAGES)

    def watch(_pipe: Any, i: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        return keep(pipe, i, timestep, tensors) if i == len(frames) else {}  # of the first batch

    if options.gif and "callback_on_step_end" in signature(pipe.__call__).parameters:
        call = {**call, "callback_on_step_end": watch}
    images: list[Any] = []
    files: list[Path] = []
    weighted: list[list[float]] = []
    seeds = options.seeds
    for output in options.sampling.generate(pipe, seeds, partial(pipe, **call), in_turn=True):
        for image in output.images:
            files.append(folder / f"seed-{seeds[len(files)]:06d}.png")
            image.save(files[-1])
        images += output.images
        share = len(output.images) / len(seeds)
        weighted.append([share * v for v in getattr(output, "current_variance", [])])
    files.append(folder / "grid.png")
    image_grid(images).save(files[-1])
    if frames:
        files.append(folder / "denoising.gif")
        save_gif(frames, files[-1])
    return files, [sum(shares) for shares in zip(*weighted, strict=True)]


def _write_signals(
    pipe: Any, call: dict[str, Any], options: SampleOptions
) -> tuple[list[Path], list[float]]:
    """Generate and write signals, in their own unit, and a plot of the first; return the paths."""
    import numpy as np
    import torch

    from spikediff.diffusion.outputs import plot_signals

    folder = options.report.folder("pictures")
    seeds = options.seeds
    make = partial(pipe, output_type="pt", **call)
    outputs = options.sampling.generate(pipe, seeds, make, in_turn=True)
    signals = torch.cat([output.images.cpu() for output in outputs])  # [N, C, L]
    files = [folder / "signals.npy", folder / "signals.png"]
    np.save(files[0], signals.numpy())
    plot_signals({f"seeds from {options.seed}": signals}).save(files[1])
    return files, []
