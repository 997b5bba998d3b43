"""`spikediff export SOURCE`: export a denoiser to neuromorphic tools and other runtimes."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

from spikediff.cli.arguments import Range
from spikediff.cli.options import OUTPUTS, Flat, Overwrite, Report, Scheduler, SourceFolder, Steps
from spikediff.cli.outputs import check_file, check_new_folder, new_folder
from spikediff.errors import UserError
from spikediff.progress import at_work


@dataclass(frozen=True)
class ExportOptions:
    """Export the denoiser of a model to NIR, ONNX or torch.export."""

    source: SourceFolder
    output: Path | None = None
    """For nir, a folder for the graphs of all timesteps and index.json; otherwise a file. In
    outputs/export by default."""
    overwrite: Overwrite = False
    format: Literal["nir", "onnx", "torch"] = "nir"
    """nir: graphs of spiking neurons; onnx, torch: one program for all timesteps."""
    num_inference_steps: Steps = None
    scheduler: Scheduler = None
    dt: Annotated[float | None, Range(1e-12, 1e38)] = None
    """For nir: length of a spiking step; by default 1e-4 s, or 1 without a leak."""
    first_convolution: Literal["graph", "host"] = "graph"
    """For nir: whether the graph or the host computes the first, real-valued convolution."""
    class_label: Annotated[int | None, Range(0, 10**9)] = None
    """For nir: the class of the images, for a model with classes."""
    batch_size: Annotated[int | None, Range(1, 65_536)] = None
    """For onnx and torch: a fixed number of images per call. By default any number, which only
    spiking_unet and the decoder of tokens support."""
    report: Flat[Report] = Report()


def run(options: ExportOptions) -> None:
    """Export and report; of layers that NIR cannot express, print a table."""
    from spikediff.interchange.nir.unsupported_layers import UnsupportedLayersError

    try:
        write(options)
    except UnsupportedLayersError as refusal:
        print(refusal.table(), flush=True)
        raise UserError(f"{refusal.gist}; docs/export.md shows networks that export") from None


def write(options: ExportOptions) -> dict[str, Any]:
    """Export; write and return the report."""
    output = options.output or _default_output(options)
    _check(options, output)

    from spikediff.hub.load import load_pipeline

    pipe = load_pipeline(options.source, options.scheduler)
    model, size = _denoiser(pipe, options.source)
    writers = {"nir": _write_nir, "onnx": _write_program, "torch": _write_program}
    with at_work(f"exporting as {options.format}"):
        facts = writers[options.format](pipe, model, size, output, options)
    report = {"format": options.format, "output": str(output), **facts}
    options.report.write(report)
    return report


def _default_output(options: ExportOptions) -> Path:
    """Return the folder of the graphs, or a file of the model's name."""
    folder = OUTPUTS / "export"
    suffixes = {"onnx": ".onnx", "torch": ".pt2"}
    name = options.source.resolve().name
    return folder if options.format == "nir" else folder / (name + suffixes[options.format])


def _check(options: ExportOptions, output: Path) -> None:
    if options.format == "nir":
        if options.batch_size is not None:
            raise UserError("--batch-size: only for --format onnx and torch; NIR has no batch")
        check_new_folder(output, options.overwrite)
        return
    given = {
        "--num-inference-steps": options.num_inference_steps,
        "--scheduler": options.scheduler,
        "--dt": options.dt,
        "--class-label": options.class_label,
    }
    for name in (name for name, value in given.items() if value is not None):
        raise UserError(f"{name}: only for --format nir; {options.format} takes any timestep")
    if options.first_convolution == "host":
        raise UserError("--first-convolution host: only for --format nir")
    check_file(output, "--output")
    if output.exists() and not options.overwrite:
        raise UserError(f"{output}: exists; choose another --output, or add --overwrite")


def _denoiser(pipe: Any, source: Path) -> tuple[Any, tuple[int, int] | None]:
    """Return the network of every timestep, and the size that its configuration lacks."""
    if "decoder" in pipe.components:
        return pipe.decoder, pipe.vqvae.latent_size
    from spikediff.hub.load import denoiser_of

    return denoiser_of(pipe, source), None


def _write_nir(
    pipe: Any, model: Any, size: Any, output: Path, options: ExportOptions
) -> dict[str, Any]:
    from spikediff.hub.load import steps_of
    from spikediff.interchange.nir.export import write_nir
    from spikediff.interchange.nir.unsupported_layers import check_supported

    check_supported(model)  # before a folder is made
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output.parent, prefix=".graphs-") as draft:
        index = write_nir(
            model,
            pipe.scheduler,
            steps_of(pipe, options.num_inference_steps),
            Path(draft),
            sample_size=size,
            dt=options.dt,
            first_on_host=options.first_convolution == "host",
            class_label=options.class_label,
        )
        folder = new_folder(output, "graphs", options.overwrite)
        for path in Path(draft).iterdir():
            shutil.move(path, folder / path.name)
    files = {step["file"] for step in index["steps"]}
    print(
        f"{index['network']}: {len(files)} graph(s) for {len(index['steps'])} network calls of "
        f"{index['scheduler']['class']}, T = {index['spiking_steps']}, dt = {index['dt']:g}\n"
        f"{output / 'index.json'} describes the work of the host"
    )
    return index


def _write_program(
    _pipe: Any, model: Any, size: Any, output: Path, options: ExportOptions
) -> dict[str, Any]:
    from spikediff.interchange.programs import export_onnx, export_torch

    output.parent.mkdir(parents=True, exist_ok=True)
    write = export_onnx if options.format == "onnx" else export_torch
    write(model, output, size, options.batch_size)
    batch = "any size" if options.batch_size is None else str(options.batch_size)
    print(f"{output}: (sample, timestep) -> estimate, for batches of {batch}")
    facts = {"network": type(model).__name__, "inputs": ["sample", "timestep"]}
    return {**facts, "batch_size": options.batch_size}
