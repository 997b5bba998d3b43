"""`spikediff export SOURCE`: hand a denoiser on to neuromorphic tools and other runtimes."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import tyro

from spikediff.cli.arguments import parse
from spikediff.cli.outputs import Overwrite, check_file, check_new_folder, new_folder, write_json
from spikediff.errors import UserError
from spikediff.progress import at_work


@dataclass(frozen=True)
class ExportOptions:
    """Write the denoiser of a run as NIR, ONNX or torch.export."""

    source: Annotated[Path, tyro.conf.Positional]
    """A pipeline's folder or a run folder."""
    output: Path
    """nir: a folder, which gets a graph for every timestep and index.json; else the file."""
    overwrite: Overwrite = False
    format: Literal["nir", "onnx", "torch"] = "nir"
    """nir: graphs of spiking neurons; onnx, torch: one program for all timesteps."""
    num_inference_steps: int | None = None
    """Of nir: network calls per image; 50, or as many as the model has, where it is not given."""
    scheduler: str | None = None
    """Of nir: a sampler of `spikediff info`; the pipeline's own where it is not given."""
    dt: float | None = None
    """Of nir: length of a spiking step; 1e-4 s, or 1 without a leak, where it is not given."""
    first_convolution: Literal["graph", "host"] = "graph"
    """Of nir: whether the graph or the host computes the convolution of real numbers."""
    class_label: int | None = None
    """Of nir: the class that the images shall be of, if the network knows some."""
    batch_size: int | None = None
    """Of onnx, torch: images per call, if the program shall take no other number; any number where
    it is not given, which spiking_unet and the decoder of tokens can do."""
    json: Path | None = None
    """Also write what was done, for a program to read."""


def run(arguments: list[str]) -> int:
    """Export as the arguments say."""
    options = parse(ExportOptions, arguments, "spikediff export")
    write_json(options.json, write(options))
    return 0


def write(options: ExportOptions) -> dict[str, Any]:
    """Export as the options say; return what was written."""
    _check(options)

    from spikediff.hub.load import load_pipeline

    pipe = load_pipeline(options.source, options.scheduler)
    model, size = _denoiser(pipe, options.source)
    writers = {"nir": _write_nir, "onnx": _write_program, "torch": _write_program}
    with at_work(f"exporting as {options.format}"):
        told = writers[options.format](pipe, model, size, options)
    return {"format": options.format, "output": str(options.output), **told}


def _check(options: ExportOptions) -> None:
    output = options.output
    if options.format == "nir":
        if options.batch_size is not None:
            raise UserError("--batch-size: of --format onnx and torch only; NIR has no batch")
        check_new_folder(output, options.overwrite)
        return
    given = {
        "--num-inference-steps": options.num_inference_steps,
        "--scheduler": options.scheduler,
        "--dt": options.dt,
        "--class-label": options.class_label,
    }
    for name in (name for name, value in given.items() if value is not None):
        raise UserError(f"{name}: of --format nir only; {options.format} takes any timestep")
    if options.first_convolution == "host":
        raise UserError("--first-convolution host: of --format nir only")
    check_file(output, "output")
    if output.exists() and not options.overwrite:
        raise UserError(f"{output}: exists; choose another --output, or give --overwrite")


def _denoiser(pipe: Any, source: Path) -> tuple[Any, tuple[int, int] | None]:
    """Return the network that is called at every timestep, and the size that it does not know."""
    if "decoder" in pipe.components:
        return pipe.decoder, pipe.vqvae.latent_size
    from spikediff.hub.load import denoiser_of

    return denoiser_of(pipe, source), None


def _write_nir(pipe: Any, model: Any, size: Any, options: ExportOptions) -> dict[str, Any]:
    from spikediff.hub.load import steps_of
    from spikediff.interchange.nir.export import write_nir

    options.output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=options.output.parent, prefix=".graphs-") as draft:
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
        folder = new_folder(options.output, "graphs", options.overwrite)
        for path in Path(draft).iterdir():
            shutil.move(path, folder / path.name)
    files = {step["file"] for step in index["steps"]}
    print(
        f"{index['network']}: {len(files)} graph(s) for {len(index['steps'])} network calls of "
        f"{index['scheduler']['class']}, T = {index['spiking_steps']}, dt = {index['dt']:g}\n"
        f"{options.output / 'index.json'} tells the host what to do around them"
    )
    return index


def _write_program(_pipe: Any, model: Any, size: Any, options: ExportOptions) -> dict[str, Any]:
    from spikediff.interchange.programs import export_onnx, export_torch

    options.output.parent.mkdir(parents=True, exist_ok=True)
    write = export_onnx if options.format == "onnx" else export_torch
    write(model, options.output, size, options.batch_size)
    batch = "any size" if options.batch_size is None else str(options.batch_size)
    print(f"{options.output}: (sample, timestep) -> estimate, for batches of {batch}")
    told = {"network": type(model).__name__, "inputs": ["sample", "timestep"]}
    return {**told, "batch_size": options.batch_size}
