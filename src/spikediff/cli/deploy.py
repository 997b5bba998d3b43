"""`spikediff deploy SOURCE`: write an integer network in whole numbers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from spikediff.cli.arguments import parse
from spikediff.cli.outputs import Overwrite, check_new_folder, new_folder, write_json
from spikediff.errors import UserError


@dataclass(frozen=True)
class DeployOptions:
    """Write the deployment form of an integer network as a pipeline of its own.

    All executions give the same images, bit for bit: by counts, by binary spikes, by events, or by
    what changed since the last denoising step (delta).
    """

    source: Annotated[Path, tyro.conf.Positional]
    """A pipeline's folder or a run folder."""
    output: Path
    """Folder for the pipeline."""
    overwrite: Overwrite = False
    weight_bits: Literal[8, 6, 4] = 8
    """Bits of a weight. With 4, fine-tune before (model.weight_bits: 4 in the recipe)."""
    execution: Literal["counts", "spikes", "events", "delta"] = "counts"
    """How the pipeline runs where no command says otherwise."""
    json: Path | None = None
    """Also write what was done, for a program to read."""


def run(arguments: list[str]) -> int:
    """Load, convert, save."""
    options = parse(DeployOptions, arguments, "spikediff deploy")

    from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
    from spikediff.hub.load import denoiser_of, load_pipeline
    from spikediff.systems.integer import IntegerSpikingUNet, to_integer

    check_new_folder(options.output, options.overwrite)
    pipe = load_pipeline(options.source)
    unet = denoiser_of(pipe, options.source)
    if not isinstance(unet, IntegerSpikingUNet):
        raise UserError(
            f"{options.source}: holds a {type(unet).__name__}; only an IntegerSpikingUNet (recipes "
            "integer/...) has a deployment form"
        )
    form = to_integer(unet, options.weight_bits).with_execution(options.execution)
    new_folder(options.output, "pipeline", options.overwrite, options.source)
    SpikingDiffusionPipeline(form, pipe.scheduler).save_pretrained(options.output)
    nbytes = sum(p.nbytes for p in form.parameters())
    write_json(
        options.json,
        {
            "source": str(options.source),
            "weight_bits": options.weight_bits,
            "execution": options.execution,
            "bytes": nbytes,
        },
    )
    print(f"{options.weight_bits}-bit weights, {nbytes / 1e6:.2f} MB, in {options.output}")
    return 0
