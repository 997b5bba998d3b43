"""`spikediff sample SOURCE`: generate images."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from spikediff.cli.arguments import EventDriven, EventDrivenWeights, Execution, parse
from spikediff.cli.outputs import Overwrite, check_new_folder, new_folder, write_json
from spikediff.errors import UserError

_GIF_IMAGES = 64  # images in the GIF's frames: those of the first batch, at most so many


@dataclass(frozen=True)
class SampleOptions:
    """Generate images: one PNG each, a grid, and a GIF of the denoising.

    Of a network of signals: all of them in one signals.npy [N, C, L], and a plot.
    """

    source: Annotated[Path, tyro.conf.Positional]
    """A pipeline's folder or a run folder."""
    output: Path = Path("samples")
    """Folder for the pictures."""
    overwrite: Overwrite = False
    num_images: int = 64
    """How many images."""
    seed: int = 0
    """Seed of the first image; the others follow, one each."""
    batch_size: int = 64
    """Images at a time; it does not change them."""
    num_inference_steps: int | None = None
    """Network calls per image; 50, or as many as the model has, where it is not given."""
    scheduler: str | None = None
    """A sampler of `spikediff info`; the pipeline's own where it is not given."""
    eta: float = 0.0
    """Share of fresh noise in DDIM's steps."""
    temperature: float | None = None
    """What divides the logits of tokens (Spiking-Diffusion); the model's own where not given."""
    top_p: float | None = None
    """Probability of the nucleus of tokens that is drawn from (Spiking-Diffusion)."""
    unmasking: Literal["ancestral", "confidence"] | None = None
    """The order in which tokens are unmasked (Spiking-Diffusion)."""
    threshold: str | None = None
    """Threshold guidance: 0.997, or stem=0.99,up_blocks=1.01 by layer, or one a step."""
    class_labels: tuple[int, ...] = ()
    """Classes to ask for, one after the other; all in turn where a model knows some and none is
    given."""
    guidance_scale: float | None = None
    """How far towards the class (classifier-free guidance); 1 is the network's own answer."""
    gif: bool = True
    """Whether to write the GIF."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    event_driven: EventDriven = False
    event_driven_weights: EventDrivenWeights = "float32"
    execution: Execution = None
    json: Path | None = None
    """Also write what was done, for a program to read."""


def run(arguments: list[str]) -> int:
    """Generate images as the arguments say."""
    options = parse(SampleOptions, arguments, "spikediff sample")
    check_new_folder(options.output, options.overwrite)

    from spikediff.cli.guided import guided
    from spikediff.hub.load import load_pipeline, steps_of

    pipe = load_pipeline(
        options.source,
        options.scheduler,
        options.device,
        options.event_driven,
        options.event_driven_weights,
        options.execution,
        to_generate=True,
    )
    with guided(pipe, options.threshold):
        signals = getattr(pipe, "makes_signals", False)
        write = write_signals if signals else write_samples
        files, variances = write(pipe, options)
    told = {"current_variance": variances} if variances else {}
    write_json(
        options.json,
        told
        | {
            "source": str(options.source),
            "pipeline": type(pipe).__name__,
            "scheduler": type(pipe.components.get("scheduler")).__name__,
            "num_inference_steps": steps_of(pipe, options.num_inference_steps),
            "threshold": options.threshold,
            "class_labels": list(options.class_labels),
            "guidance_scale": options.guidance_scale,
            "event_driven": options.event_driven,
            "event_driven_weights": options.event_driven_weights if options.event_driven else None,
            "execution": options.execution,
            "seeds": [options.seed, options.seed + options.num_images - 1],
            "files": [str(path) for path in files],
        },
    )
    if variances:
        print(
            f"variance of the synaptic currents over the spiking steps: {max(variances):.4f} at "
            f"most, {variances[-1]:.4f} after the last step"
        )
    kind, names = "signals" if signals else "images", ", ".join(p.name for p in files[-2:])
    print(f"{options.num_images} {kind}, {names} in {options.output}")
    return 0


def write_samples(pipe: Any, options: SampleOptions) -> tuple[list[Path], list[float]]:
    """Generate and write the pictures; return their paths, and the currents' variance if any."""
    from spikediff.diffusion.outputs import image_grid, record_frames, save_gif

    call = _options_of(pipe, options)
    new_folder(options.output, "pictures", options.overwrite)
    frames: list[Any] = []
    watching: dict[str, Any] = {}
    if options.gif and "callback_on_step_end" in inspect.signature(pipe.__call__).parameters:
        watching["callback_on_step_end"] = record_frames(frames, _GIF_IMAGES)

    images, files = [], []
    variances: list[float] = []
    everyone = range(options.seed, options.seed + options.num_images)
    for seeds in _batches(everyone, options.batch_size):
        classes, is_first = _classes(pipe, options, seeds), seeds[0] == options.seed
        output = pipe(seeds=seeds, **call, **classes, **(watching if is_first else {}))
        told = [
            len(seeds) / options.num_images * v for v in getattr(output, "current_variance", [])
        ]
        variances = [a + b for a, b in zip(variances, told, strict=True)] if variances else told
        for seed, image in zip(seeds, output.images, strict=True):
            files.append(options.output / f"seed-{seed:06d}.png")
            image.save(files[-1])
        images += output.images
    files.append(options.output / "grid.png")
    image_grid(images).save(files[-1])
    if frames:
        files.append(options.output / "denoising.gif")
        save_gif(frames, files[-1])
    return files, variances


def write_signals(pipe: Any, options: SampleOptions) -> tuple[list[Path], list[float]]:
    """Generate and write signals, in their own unit, and a plot of the first; return the paths."""
    import numpy as np
    import torch

    from spikediff.diffusion.outputs import plot_signals

    call = _options_of(pipe, options)
    new_folder(options.output, "pictures", options.overwrite)
    seeds = range(options.seed, options.seed + options.num_images)
    signals = torch.cat(
        [
            pipe(seeds=part, output_type="pt", **call, **_classes(pipe, options, part)).images.cpu()
            for part in _batches(seeds, options.batch_size)
        ]
    )  # [N, C, L]
    files = [options.output / "signals.npy", options.output / "signals.png"]
    np.save(files[0], signals.numpy())
    plot_signals({f"seeds from {options.seed}": signals}).save(files[1])
    return files, []


def _batches(seeds: range, size: int) -> list[range]:
    return [seeds[first : first + size] for first in range(0, len(seeds), size)]


def _classes(pipe: Any, options: SampleOptions, seeds: Sequence[int]) -> dict[str, Any]:
    """Return the labels of seeds: those that were asked for, over and over, or all in turn."""
    from spikediff.diffusion.classes import classes_in_turn

    wanted = options.class_labels
    if not wanted:
        return classes_in_turn(pipe, seeds)
    if "class_labels" not in inspect.signature(pipe.__call__).parameters:
        raise UserError(f"--class-labels: {type(pipe).__name__} has none; leave it out")
    return {"class_labels": [wanted[(seed - options.seed) % len(wanted)] for seed in seeds]}


def _options_of(pipe: Any, options: SampleOptions) -> dict[str, Any]:
    """Return what a pipeline is told; refuse what it does not know."""
    from spikediff.hub.load import steps_of

    known = inspect.signature(pipe.__call__).parameters
    call: dict[str, Any] = {"num_inference_steps": steps_of(pipe, options.num_inference_steps)}
    names = ("temperature", "top_p", "unmasking", "guidance_scale")
    wanted = {"eta": options.eta or None} | {name: getattr(options, name) for name in names}
    for name, value in wanted.items():
        if value is None:
            continue
        if name not in known:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} {value}: {type(pipe).__name__} has none; leave it out")
        call[name] = value
    return call
