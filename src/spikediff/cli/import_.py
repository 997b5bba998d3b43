"""`spikediff import CHECKPOINT --system NAME`: turn an authors' checkpoint into a pipeline."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from spikediff.cli.arguments import Range
from spikediff.cli.options import Flat, FolderReport
from spikediff.files.reading import file_sha256

_SIZE = Range(1, 65_536)


@dataclass(frozen=True)
class ImportOptions:
    """Turn a checkpoint of the authors' code into a pipeline folder.

    Sizes are inferred from the weights; options give what cannot be inferred.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """A file written by torch.save, or a safetensors file. No code in it is run."""
    system: str
    """sddpm, sdm, sdm-converted, sdm-quantised, fsddim, spiking-diffusion (the autoencoder),
    spiking-diffusion-decoder (both stages) or fsvae."""
    report: Flat[FolderReport]
    spiking_steps: Annotated[int | None, _SIZE] = None
    """T used in training; by default that of the release, or of the weights."""
    sample_size: Annotated[int | None, _SIZE] = None
    """Side of the images in pixels; that of the release by default."""
    residual_alpha: Annotated[float | None, Range(1e-6, 1e6)] = None
    """For fsddim: gain of the residual norms; by default 1, as in the released trainer. The tdBN of
    the paper has 0.7071."""
    first_stage: Path | None = None
    """For spiking-diffusion-decoder: the checkpoint of the autoencoder."""


def run(options: ImportOptions) -> None:
    from spikediff.diffusion.pipeline import scheduler_name
    from spikediff.systems.released import load_authors_pipeline

    pipe = load_authors_pipeline(
        options.checkpoint,
        options.system,
        options.spiking_steps,
        options.sample_size,
        options.residual_alpha,
        options.first_stage,
    )
    folder = options.report.folder("pipeline", options.checkpoint)
    pipe.save_pretrained(folder)
    origin = _origin(options)
    (folder / "origin.json").write_text(json.dumps(origin, indent=1) + "\n")
    networks = _facts(pipe)
    options.report.write(
        {
            "origin": origin,
            "pipeline": type(pipe).__name__,
            "networks": networks,
            "scheduler": scheduler_name(pipe),
            "output": str(folder),
        }
    )
    for name, facts in networks.items():
        steps = facts["spiking_steps"]
        kind = "" if steps is None else f", T = {steps}"
        print(f"{name}: {facts['class']}, {facts['parameters']:,} parameters{kind}")
    print(f"{type(pipe).__name__} in {folder}")


def _origin(options: ImportOptions) -> dict[str, Any]:
    """Return the origin of the weights: file names, checksums and options."""
    files = {"checkpoint": options.checkpoint, "first_stage": options.first_stage}
    names = ("spiking_steps", "sample_size", "residual_alpha")
    return {
        "system": options.system,
        **{
            key: {"file": path.name, "sha256": file_sha256(path)}
            for key, path in files.items()
            if path is not None
        },
        "options": {k: getattr(options, k) for k in names if getattr(options, k) is not None},
    }


def _facts(pipe: Any) -> dict[str, dict[str, Any]]:
    from spikediff.diffusion.loop import networks_of

    return {
        name: {
            "class": type(network).__name__,
            "parameters": network.num_parameters(),
            "spiking_steps": network.config.get("spiking_steps"),
            "sample_size": network.config.get("sample_size"),
        }
        for name, network in networks_of(pipe).items()
    }
