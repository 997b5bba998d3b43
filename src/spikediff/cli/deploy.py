"""`spikediff deploy SOURCE`: the integer form of an integer network."""

import shlex
from dataclasses import dataclass
from shutil import copyfile
from typing import Literal

from spikediff.cli.options import Flat, FolderReport, SourceFolder
from spikediff.cli.outputs import say_where
from spikediff.errors import UserError, kind_of
from spikediff.pretrained import name_of


@dataclass(frozen=True)
class DeployOptions:
    """Write the deployment form of an integer network: a pipeline in integer arithmetic.

    All executions give the same images, bit for bit: by counts, by binary spikes, by events, or by
    changes since the last denoising step (delta).
    """

    source: SourceFolder
    report: Flat[FolderReport]
    weight_bits: Literal[8, 6, 4] = 8
    """Bits per weight. For 4, fine-tune first (model.weight_bits: 4 in the recipe)."""
    execution: Literal["counts", "spikes", "events", "delta"] = "counts"
    """How the pipeline runs unless a command says otherwise."""


def run(options: DeployOptions) -> None:
    from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
    from spikediff.hub.load import denoiser_of, load_pipeline
    from spikediff.systems.integer import IntegerSpikingUNet, to_integer

    report = options.report
    pipe = load_pipeline(options.source)
    unet = denoiser_of(pipe, options.source)
    if not isinstance(unet, IntegerSpikingUNet):
        raise UserError(
            f"{name_of(options.source)}: has {kind_of(unet)}; only an IntegerSpikingUNet "
            "(recipes integer/...) has a deployment form"
        )
    form = to_integer(unet, options.weight_bits).with_execution(options.execution)
    folder = report.folder("pipeline", options.source)
    SpikingDiffusionPipeline(form, pipe.scheduler).save_pretrained(folder)
    if (recipe := options.source / "recipe.yaml").is_file():  # names the data set
        copyfile(recipe, folder / recipe.name)
    nbytes = sum(p.nbytes for p in form.parameters())
    report.write(
        {
            "source": str(options.source),
            "weight_bits": options.weight_bits,
            "execution": options.execution,
            "bytes": nbytes,
        }
    )
    say_where(
        f"{options.weight_bits}-bit weights, {nbytes / 1e6:.2f} MB,",
        folder,
        f"sample {shlex.quote(str(folder))}",
    )
