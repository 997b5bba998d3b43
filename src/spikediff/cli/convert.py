"""`spikediff convert SOURCE`: from an ordinary denoiser to a spiking one."""

import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from spikediff.cli.arguments import parse
from spikediff.cli.outputs import Overwrite, check_new_folder, new_folder, write_json
from spikediff.hub.run_data import find_dataset, training_images

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from spikediff.systems.converted.fine_tune import LayerError
    from spikediff.systems.converted.quantise import NoisedImages
    from spikediff.systems.converted.quantised import QuantisedUNet

_PROBE_IMAGES = 64  # x_t on which the errors are measured


@dataclass(frozen=True)
class ConvertOptions:
    """Quantise the activations of a diffusers UNet2DModel, train that, and turn it into spikes.

    The output holds a pipeline with the spiking network, and one with the quantised network in its
    folder `quantised`, from which other conversions may start without training it again.
    """

    source: Annotated[Path, tyro.conf.Positional]
    """A pipeline's folder or a run folder, of a UNet2DModel or of a quantised network."""
    output: Path = Path("converted")
    """Folder for the pipelines."""
    overwrite: Overwrite = False
    bits: int = 2
    """Bits of an activation: 2 to 4."""
    spiking_steps: int | None = None
    """T; 2^bits - 1 where it is not given."""
    spikes: Literal["signed", "unsigned"] = "signed"
    """Whether a neuron may take a spike back."""
    norm: Literal["shared", "per_step"] = "shared"
    """Statistics of group norm: one for the window, or one for every step as the authors have."""
    attention: Literal["refuse", "real"] = "refuse"
    """Refuse attention, or keep it in real numbers (`spikediff energy --audit` names it)."""
    quantise_steps: int = 2000
    """Training steps in which the quantised network learns to answer as the source does."""
    quantise_lr: float = 1e-3
    """Learning rate of that."""
    fine_tune_steps: int = 0
    """Training steps for every block of the spiking network."""
    fine_tune_lr: float = 1e-4
    """Learning rate of that."""
    train_thresholds: bool = False
    """Whether fine-tuning changes thresholds too."""
    train_steps: int = 0
    """Training steps in which the whole spiking network, then, learns to answer as the source."""
    train_lr: float = 5e-4
    """Learning rate of that."""
    batch_size: int = 32
    """Images per training step."""
    dataset: str | None = None
    """What to train on; the data set of the run's recipe where it is not given."""
    data_dir: Path | None = None
    """Folder that holds the data sets; that of the run's recipe where it is not given."""
    num_images: int = 2048
    """Training images that are used, at most."""
    probe: Path | None = None
    """Picture of the error of every layer."""
    seed: int = 0
    """Seed of the images, the noise and the timesteps."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    json: Path | None = None
    """Also write what was done and measured, for a program to read."""


def run(arguments: list[str]) -> int:
    """Quantise, train, convert, fine-tune, measure, save."""
    options = parse(ConvertOptions, arguments, "spikediff convert")
    _check(options)

    from spikediff.hub.load import load_pipeline
    from spikediff.systems.converted.convert import convert
    from spikediff.systems.converted.fine_tune import fine_tune

    started = time.monotonic()
    pipe = load_pipeline(options.source, device=options.device)
    noised = _noised_images(pipe, options)
    quantised = _quantised(pipe, noised, options)
    converted = convert(quantised, options.spiking_steps, spikes=options.spikes, norm=options.norm)
    unseen = _reseeded(noised, options.seed + 1).draw(_PROBE_IMAGES)
    errors = {"converted": _measure(converted, quantised, unseen)}
    blocks = []
    if options.fine_tune_steps:
        with _progress("fine-tuning", None) as report:
            blocks = fine_tune(
                converted,
                quantised,
                noised,
                options.fine_tune_steps,
                batch_size=options.batch_size,
                lr=options.fine_tune_lr,
                train_thresholds=options.train_thresholds,
                on_step=lambda name, loss: report(loss, name),
            )
        errors["fine-tuned"] = _measure(converted, quantised, unseen)
    if options.train_steps:
        _distil(
            "training", converted, pipe.unet, noised, options.train_steps, options.train_lr, options
        )
        errors["trained"] = _measure(converted, quantised, unseen)
    to_source = {
        "quantised": _distance(quantised, pipe.unet, unseen),
        "spiking": _distance(converted, pipe.unet, unseen),
    }
    new_folder(options.output, "pipeline", options.overwrite, options.source)
    _save(pipe, quantised, options.output / "quantised")
    _save(pipe, converted, options.output)
    if options.probe is not None:
        from spikediff.systems.converted.fine_tune import plot_conversion_errors

        plot_conversion_errors(errors, options.probe)
    _tell(converted, errors, to_source, options)
    write_json(
        options.json,
        {
            "source": str(options.source),
            "spiking_steps": converted.config.spiking_steps,
            "options": {key: str(value) for key, value in asdict(options).items()},
            "layer_errors": {k: [asdict(entry) for entry in v] for k, v in errors.items()},
            "distance_to_source": to_source,
            "blocks": [asdict(block) for block in blocks],
            "seconds": time.monotonic() - started,
        },
    )
    return 0


def _check(options: ConvertOptions) -> None:
    """Refuse what could only fail after minutes of work."""
    check_new_folder(options.output, options.overwrite)


def _noised_images(pipe: Any, options: ConvertOptions) -> "NoisedImages":
    """Return the inputs that the network sees in training."""
    from spikediff.systems.converted.quantise import NoisedImages

    name, data_dir = find_dataset(options.source, options.dataset, options.data_dir)
    images = training_images(pipe, name, data_dir, options.num_images, options.seed)
    return NoisedImages(images.to(pipe.device), pipe.scheduler.alphas_cumprod, options.seed)


def _reseeded(noised: "NoisedImages", seed: int) -> "NoisedImages":
    from spikediff.systems.converted.quantise import NoisedImages

    return NoisedImages(noised.images, noised.alphas_cumprod, seed)


def _quantised(pipe: Any, noised: "NoisedImages", options: ConvertOptions) -> "QuantisedUNet":
    """Return the source if it is a quantised network, else one that was taught to answer as it."""
    from spikediff.systems.converted.quantise import quantise
    from spikediff.systems.converted.quantised import QuantisedUNet

    if isinstance(pipe.unet, QuantisedUNet):
        given: QuantisedUNet = pipe.unet
        return given
    quantised = quantise(pipe.unet, options.bits, noised, attention=options.attention)
    _distil(
        "quantising",
        quantised,
        pipe.unet,
        noised,
        options.quantise_steps,
        options.quantise_lr,
        options,
    )
    return quantised


def _distil(
    what: str,
    student: Any,
    teacher: Any,
    noised: "NoisedImages",
    steps: int,
    lr: float,
    options: ConvertOptions,
) -> None:
    """Let a network learn to answer as another does, with a progress bar."""
    from spikediff.systems.converted.quantise import distil

    with _progress(what, steps) as report:
        distil(
            student,
            teacher,
            noised,
            steps,
            batch_size=options.batch_size,
            lr=lr,
            on_step=report,
        )


@contextmanager
def _progress(what: str, steps: int | None) -> "Iterator[Callable[..., None]]":
    """Show how far a training is: gives what is called with the loss and a note after a step."""
    import sys

    from tqdm import tqdm

    with tqdm(desc=what, total=steps, mininterval=0.2 if sys.stderr.isatty() else 4.0) as bar:

        def report(loss: float, note: str = "") -> None:
            bar.set_postfix_str(f"{note} loss={loss:.4f}".strip(), refresh=False)
            bar.update()

        yield report


def _measure(converted: Any, quantised: Any, unseen: Any) -> "list[LayerError]":
    from spikediff.systems.converted.fine_tune import probe

    return probe(converted, quantised, *unseen)


def _distance(model: Any, source: Any, unseen: Any) -> float:
    """Return the relative difference of two networks' answers."""
    import torch

    from spikediff.systems.converted.fine_tune import relative_error

    with torch.no_grad():
        return relative_error(model(*unseen).sample, source(*unseen).sample)


def _save(pipe: Any, unet: Any, folder: Path) -> None:
    from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline

    SpikingDiffusionPipeline(unet.eval(), pipe.scheduler).save_pretrained(folder)


def _tell(
    converted: Any, errors: Any, to_source: dict[str, float], options: ConvertOptions
) -> None:
    """Print what became of the answers."""
    for stage, entries in errors.items():
        worst = max(entries[:-1], key=lambda entry: entry.error)
        print(
            f"{stage}: the estimate differs by {entries[-1].error:.1%} from the quantised "
            f"network's; worst layer {worst.layer}, {worst.error:.1%}"
        )
    print(
        f"from the source's estimate: quantised {to_source['quantised']:.1%}, "
        f"spiking {to_source['spiking']:.1%}\n"
        f"spiking network with T = {converted.config.spiking_steps} in {options.output}"
    )
