"""`spikediff import CHECKPOINT --system NAME`: an authors' checkpoint as a pipeline's folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from spikediff.cli.arguments import parse
from spikediff.cli.outputs import Overwrite, check_new_folder, new_folder, write_json
from spikediff.files.reading import file_sha256


@dataclass(frozen=True)
class ImportOptions:
    """Turn a checkpoint of the authors' code into a folder that every other command reads.

    Sizes are read off the weights; what they cannot tell is an option.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A file of torch.save, or a safetensors file. No code in it is run."""
    system: str
    """sddpm, sdm, sdm-converted, sdm-quantised, fsddim, spiking-diffusion (the autoencoder),
    spiking-diffusion-decoder (both stages) or fsvae."""
    output: Path
    """Folder of the pipeline."""
    overwrite: Overwrite = False
    spiking_steps: int | None = None
    """T of the training run; that of the release, or what the weights tell, where not given."""
    sample_size: int | None = None
    """Side of the images in pixels; that of the release where it is not given."""
    residual_alpha: float | None = None
    """Of fsddim: gain of the residual norms; 1, what the released trainer trains, where not given;
    0.7071 for the tdBN of the paper."""
    first_stage: Path | None = None
    """Of spiking-diffusion-decoder: the checkpoint of the autoencoder."""
    json: Path | None = None
    """Also write what was made, for a program to read."""


def run(arguments: list[str]) -> int:
    """Read, build, save."""
    options = parse(ImportOptions, arguments, "spikediff import")
    check_new_folder(options.output, options.overwrite)

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
    new_folder(options.output, "pipeline", options.overwrite, options.checkpoint)
    pipe.save_pretrained(options.output)
    origin = _origin(options)
    (options.output / "origin.json").write_text(json.dumps(origin, indent=1) + "\n")
    networks = _told(pipe)
    write_json(
        options.json,
        {
            "origin": origin,
            "pipeline": type(pipe).__name__,
            "networks": networks,
            "scheduler": scheduler_name(pipe),
            "output": str(options.output),
        },
    )
    for name, facts in networks.items():
        steps = facts["spiking_steps"]
        kind = "" if steps is None else f", T = {steps}"
        print(f"{name}: {facts['class']}, {facts['parameters']:,} parameters{kind}")
    print(f"{type(pipe).__name__} in {options.output}")
    return 0


def _origin(options: ImportOptions) -> dict[str, Any]:
    """Return where the weights came from: names and checksums of files, and what was told."""
    files = {"checkpoint": options.checkpoint, "first_stage": options.first_stage}
    told = ("spiking_steps", "sample_size", "residual_alpha")
    return {
        "system": options.system,
        **{
            key: {"file": path.name, "sha256": file_sha256(path)}
            for key, path in files.items()
            if path is not None
        },
        "options": {k: getattr(options, k) for k in told if getattr(options, k) is not None},
    }


def _told(pipe: Any) -> dict[str, dict[str, Any]]:
    from spikediff.hub.load import networks_of

    return {
        name: {
            "class": type(network).__name__,
            "parameters": sum(p.numel() for p in network.parameters()),
            "spiking_steps": network.config.get("spiking_steps"),
            "sample_size": network.config.get("sample_size"),
        }
        for name, network in networks_of(pipe).items()
    }
