"""`spikediff convert SOURCE`: turn an ordinary denoiser into a spiking one."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from spikediff.cli.arguments import OutputFile, Range
from spikediff.cli.options import (
    OUTPUTS,
    BatchSize,
    DataDir,
    Dataset,
    Device,
    Flat,
    FolderReport,
    NumImages,
    SourceFolder,
)
from spikediff.errors import UserError, kind_of
from spikediff.pretrained import name_of

if TYPE_CHECKING:
    from spikediff.systems.converted.network import QuantisedUNet
    from spikediff.systems.converted.training import NoisedImages

_PROBE_IMAGES = 64  # x_t on which the errors are measured
_TRAINING_STEPS, _LEARNING_RATE = Range(0, 10**9), Range(1e-12, 1e38)


@dataclass(frozen=True)
class ConvertOptions:
    """Quantise the activations of a diffusers UNet2DModel, train it, and convert it to spikes.

    The output is a pipeline with the spiking network. Its folder `quantised` has a pipeline with
    the quantised network, from which later conversions start without training it again.
    """

    source: SourceFolder
    report: Flat[FolderReport] = FolderReport(output=OUTPUTS / "convert")
    bits: Annotated[int, Range(2, 4)] = 2
    """Bits of an activation: 2 to 4."""
    spiking_steps: Annotated[int | None, Range(1, 65_536)] = None
    """T; 2^bits - 1 by default."""
    spikes: Literal["signed", "unsigned"] = "signed"
    """Whether neurons can emit negative spikes, which take earlier ones back."""
    norm: Literal["shared", "per_step"] = "shared"
    """Statistics of group norm: shared by all steps, or one per step, as in the authors' code."""
    attention: Literal["refuse", "real"] = "refuse"
    """Refuse attention, or keep it in real numbers (`spikediff energy --audit` lists it)."""
    quantise_steps: Annotated[int, _TRAINING_STEPS] = 2000
    """Training steps that distil the source into the quantised network."""
    quantise_lr: Annotated[float, _LEARNING_RATE] = 1e-3
    """Learning rate of these steps."""
    fine_tune_steps: Annotated[int, _TRAINING_STEPS] = 0
    """Fine-tuning steps for every block of the spiking network."""
    fine_tune_lr: Annotated[float, _LEARNING_RATE] = 1e-4
    """Learning rate of these steps."""
    train_thresholds: bool = False
    """Whether fine-tuning also changes thresholds."""
    train_steps: Annotated[int, _TRAINING_STEPS] = 0
    """Training steps that distil the source into the whole spiking network afterwards."""
    train_lr: Annotated[float, _LEARNING_RATE] = 5e-4
    """Learning rate of these steps."""
    batch_size: BatchSize = 32
    dataset: Dataset = None
    data_dir: DataDir = None
    num_images: NumImages = 2048
    probe: Annotated[Path | None, OutputFile((".png",))] = None
    """Also plot the error of every layer, as a PNG."""
    seed: Annotated[int, Range(0, 2**62)] = 0
    """The seed of the images, the noise and the timesteps."""
    device: Device = "auto"


def run(options: ConvertOptions) -> None:
    from diffusers.models.unets.unet_2d import UNet2DModel

    from spikediff.hub.load import denoiser_of, load_pipeline
    from spikediff.hub.run_data import find_dataset, training_images
    from spikediff.systems.converted.convert import convert
    from spikediff.systems.converted.layer_errors import plot_conversion_errors, probe
    from spikediff.systems.converted.network import QuantisedUNet
    from spikediff.systems.converted.training import NoisedImages, distil

    _check_used(options)
    started = time.monotonic()
    pipe = load_pipeline(options.source, device=options.device)
    unet = denoiser_of(pipe, options.source)
    if not isinstance(unet, UNet2DModel | QuantisedUNet):
        raise UserError(
            f"{name_of(options.source)}: has {kind_of(unet)}; convert takes a UNet2DModel"
        )
    dataset, data_dir = find_dataset(options.source, options.dataset, options.data_dir)
    images = training_images(pipe, dataset, data_dir, options.num_images, options.seed)
    noised = NoisedImages(images.to(pipe.device), pipe.scheduler.alphas_cumprod, options.seed)
    quantised = _quantised(pipe, noised, options)
    converted = convert(quantised, options.spiking_steps, spikes=options.spikes, norm=options.norm)
    other_noise = NoisedImages(noised.images, noised.alphas_cumprod, options.seed + 1)
    unseen = other_noise.draw(_PROBE_IMAGES)
    errors = {"converted": probe(converted, quantised, *unseen)}
    blocks = []
    if options.fine_tune_steps:
        blocks = _fine_tune(converted, quantised, noised, options)
        errors["fine-tuned"] = probe(converted, quantised, *unseen)
    if options.train_steps:
        how: dict[str, Any] = {"lr": options.train_lr, "batch_size": options.batch_size}
        with _progress("training", options.train_steps) as told:
            distil(converted, unet, noised, options.train_steps, on_step=told, **how)
        errors["trained"] = probe(converted, quantised, *unseen)
    to_source = {
        "quantised": _distance(quantised, unet, unseen),
        "spiking": _distance(converted, unet, unseen),
    }
    folder = options.report.folder("pipeline", options.source)
    _save(pipe, quantised, folder / "quantised")
    _save(pipe, converted, folder)
    if options.probe is not None:
        plot_conversion_errors(errors, options.probe)
    _print(converted, errors, to_source, folder)
    given = asdict(options)
    given |= given.pop("report")
    options.report.write(
        {
            "source": str(options.source),
            "spiking_steps": converted.config.spiking_steps,
            "options": {name: str(value) for name, value in given.items()},
            "layer_errors": {k: [asdict(entry) for entry in v] for k, v in errors.items()},
            "distance_to_source": to_source,
            "blocks": [asdict(block) for block in blocks],
            "seconds": time.monotonic() - started,
        }
    )


def _check_used(options: ConvertOptions) -> None:
    """Refuse choices for a training that does not happen."""
    for training, name in (
        ("quantise_steps", "quantise_lr"),
        ("fine_tune_steps", "fine_tune_lr"),
        ("fine_tune_steps", "train_thresholds"),
        ("train_steps", "train_lr"),
    ):
        if not getattr(options, training) and getattr(options, name) != getattr(
            ConvertOptions, name
        ):
            option, needed = (f"--{key.replace('_', '-')}" for key in (name, training))
            raise UserError(f"{option} needs {needed}")


def _quantised(pipe: Any, noised: "NoisedImages", options: ConvertOptions) -> "QuantisedUNet":
    """Return the source if it is a quantised network, else one distilled from it."""
    from spikediff.systems.converted.convert import quantise
    from spikediff.systems.converted.network import QuantisedUNet
    from spikediff.systems.converted.training import distil

    if isinstance(pipe.unet, QuantisedUNet):
        given: QuantisedUNet = pipe.unet
        if options.bits not in (ConvertOptions.bits, given.config.bits):
            raise UserError(
                f"--bits {options.bits}: {name_of(options.source)} has {given.config.bits}"
            )
        return given
    quantised = quantise(pipe.unet, options.bits, noised, attention=options.attention)
    how: dict[str, Any] = {"lr": options.quantise_lr, "batch_size": options.batch_size}
    with _progress("quantising", options.quantise_steps) as told:
        distil(quantised, pipe.unet, noised, options.quantise_steps, on_step=told, **how)
    return quantised


def _fine_tune(
    converted: Any, quantised: "QuantisedUNet", noised: "NoisedImages", options: ConvertOptions
) -> list[Any]:
    """Fine-tune the spiking network block by block; return the result of every block."""
    from spikediff.systems.converted.training import fine_tune

    with _progress("fine-tuning", None) as report:
        return fine_tune(
            converted,
            quantised,
            noised,
            options.fine_tune_steps,
            batch_size=options.batch_size,
            lr=options.fine_tune_lr,
            train_thresholds=options.train_thresholds,
            on_step=lambda name, loss: report(loss, name),
        )


@contextmanager
def _progress(what: str, steps: int | None) -> Iterator[Callable[..., None]]:
    """Show a progress bar; the block gets a function of the loss and a note, called every step."""
    from tqdm import tqdm

    with tqdm(
        desc=what, total=steps, unit="step", mininterval=0.2 if sys.stderr.isatty() else 4.0
    ) as bar:

        def report(loss: float, note: str = "") -> None:
            bar.set_postfix_str(f"{note} loss={loss:.4f}".strip(), refresh=False)
            bar.update()

        yield report


def _distance(model: Any, source: Any, unseen: Any) -> float:
    """Return the relative difference between the estimates of two networks, of no class."""
    import torch

    from spikediff.diffusion.classes import conditioned
    from spikediff.diffusion.loop import estimates_of
    from spikediff.systems.converted.layer_errors import relative_error

    with torch.no_grad():
        mine, other = (
            conditioned(estimates_of(network), network, None, None, _PROBE_IMAGES)(*unseen)
            for network in (model, source)
        )
        return relative_error(mine, other)


def _save(pipe: Any, unet: Any, folder: Path) -> None:
    from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline

    SpikingDiffusionPipeline(unet.eval(), pipe.scheduler).save_pretrained(folder)


def _print(converted: Any, errors: Any, to_source: dict[str, float], folder: Path) -> None:
    for stage, entries in errors.items():
        worst = max(entries[:-1], key=lambda entry: entry.error)
        print(
            f"{stage}: the estimate differs by {entries[-1].error:.1%} from the quantised "
            f"network's; worst layer {worst.layer}, {worst.error:.1%}"
        )
    print(
        f"from the source's estimate: quantised {to_source['quantised']:.1%}, "
        f"spiking {to_source['spiking']:.1%}\n"
        f"spiking network with T = {converted.config.spiking_steps} in {folder}"
    )
