"""Find and load a trained model: a pipeline, or the run that made it."""

from pathlib import Path
from typing import Any, Literal

from spikediff.errors import UserError, kind_of
from spikediff.hub.run_data import cache_folder
from spikediff.pretrained import find_source, may_be_repository, name_of, ships
from spikediff.progress import at_work


def load_pipeline(
    source: Path,
    scheduler: str | None = None,
    device: str = "cpu",
    event_driven: bool = False,
    weights: Literal["float32", "int16", "int8"] = "float32",
    execution: str | None = None,
    to_generate: bool = False,
    float64_needed: str | None = None,
) -> Any:
    """Load a pipeline, in the class that belongs to its network.

    Args:
        source: A pipeline folder, a run folder (an unfinished run loads from its newest complete
            checkpoint), the name of a shipped model, or USER/NAME on the Hugging Face Hub.
        scheduler: Key of `SCHEDULERS`; None keeps the pipeline's own.
        device: "cpu", "cuda", "mps", or "auto": the first available of cuda, mps and cpu.
        event_driven: Whether to compile the networks for event-driven inference, on the CPU.
        weights: Precision of the event-driven weights.
        execution: Execution of an integer network's deployment form; None keeps its own.
        to_generate: Whether only images are needed: compiles networks if the bits are the same.
        float64_needed: What the caller computes in float64 on the device, which MPS cannot.

    Raises:
        UserError: There is no such model, or its files are damaged; there is no such scheduler or
            device; or event-driven inference is requested on another device than the CPU, or its
            weights without it.
    """
    check_event_driven(event_driven, weights, device)
    from spikediff.training.trained import load_trained

    source = local_folder(source)
    with at_work(f"loading {source}"):
        pipe = load_trained(source)
    if scheduler is not None:
        denoiser_of(pipe, source)  # schedulers belong to denoisers
        from spikediff.diffusion.schedulers import make_scheduler

        config = dict(pipe.scheduler.config)
        if scheduler == "analytic-dpm":
            from spikediff.diffusion.calibration import load_calibration

            folder = pipeline_folder(source)
            config |= load_calibration(folder, kept_calibrations(folder), source)
        pipe.scheduler = make_scheduler(scheduler, config)
    if execution is not None:
        from spikediff.diffusion.model import HasExecutions

        unet = denoiser_of(pipe, source)
        if not isinstance(unet, HasExecutions):
            raise UserError(
                f"--execution {execution}: {name_of(source)} holds {kind_of(unet)}; only "
                "the deployment form of an integer network has executions; "
                "spikediff deploy makes it"
            )
        pipe.unet = unet.with_execution(execution)
    if not event_driven:
        pipe = pipe.to(choose_device(device, float64_needed or float64_part(pipe)))
        return compile_exactly(pipe) if to_generate else pipe
    return pipe.to("cpu").compile_for_inference(weights)


def local_folder(source: Path) -> Path:
    """Return the folder of a source; a repository of the Hub is downloaded, without its code."""
    source = find_source(source)
    if source.exists() or not may_be_repository(source):
        return source
    from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline

    try:
        return Path(SpikingDiffusionPipeline.download(source.as_posix()))
    except (OSError, ValueError) as error:  # of the Hub: no such repository, no connection
        raise UserError(
            f"{source}: no such folder here, and no such repository on the Hugging Face Hub, or "
            f"no connection to it ({type(error).__name__})"
        ) from error


def compile_exactly(pipe: Any) -> Any:
    """Compile a deployment form on the CPU that runs by counts or changes; keep others."""
    from spikediff.diffusion.model import HasExecutions

    unet = pipe.components.get("unet")
    whole = isinstance(unet, HasExecutions) and unet.device.type == "cpu"
    if whole and unet.config.execution in ("counts", "delta"):
        pipe.compile_for_inference()
    return pipe


def check_event_driven(event_driven: bool, weights: str, device: str) -> None:
    """Refuse event-driven inference on another device than the CPU, and weights without it."""
    if not event_driven and weights != "float32":
        raise UserError(f"--event-driven-weights {weights}: needs --event-driven")
    if event_driven and device in ("cuda", "mps"):
        raise UserError(f"--event-driven: runs only on the CPU; omit --device {device}")


def denoiser_of(pipe: Any, source: Path) -> Any:
    """Return a pipeline's image denoiser; `source` names the model in errors."""
    if "unet" not in pipe.components:
        raise UserError(f"{name_of(source)}: {kind_of(pipe)} has no denoiser")
    return pipe.unet


def steps_of(pipe: Any, given: int | None) -> int:
    """Return the network calls per image: as given, otherwise 50 or the model's maximum."""
    scheduler = pipe.components.get("scheduler")
    most = None if scheduler is None else int(scheduler.config.num_train_timesteps)
    if given is not None and most is not None and given > most:
        raise UserError(f"--num-inference-steps {given} must be at most {most}, the model's steps")
    return given or min(50, most or 50)


def pipeline_folder(source: Path) -> Path:
    """Return the folder of a pipeline: the source itself, or the one in a finished run."""
    return source / "pipeline" if (source / "pipeline").is_dir() else source


def kept_calibrations(folder: Path) -> Path | None:
    """Return the folder of a pipeline's calibration; None for beside the pipeline.

    That of a shipped or downloaded model goes to the user's cache, because its folder is shared.
    """
    from huggingface_hub import constants

    downloaded = folder.resolve().is_relative_to(Path(constants.HF_HUB_CACHE).resolve())
    return cache_folder(None) / "calibrations" if downloaded or ships(folder) else None


def choose_device(name: str, in_float64: str | None = None) -> str:
    """Return the device to compute on: "cpu", "cuda", "cuda:1" (a second one) or "mps".

    Args:
        name: One of these, or "auto": the first available of cuda, mps and cpu.
        in_float64: What needs float64, which MPS does not have; None if nothing does.

    Raises:
        UserError: There is no such device here, or it has no float64.
    """
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    name = str(name)  # of a `torch.device`
    kind = name.partition(":")[0]
    if kind not in ("auto", "cpu", *there):
        raise UserError(f"--device {name}: no such device; choose auto, cpu, cuda or mps")
    if name == "auto":
        serving = (one for one in there if there[one] and not (one == "mps" and in_float64))
        return next(serving, "cpu")
    if not there.get(kind, True):
        raise UserError(f"--device {name}: torch sees no {kind.upper()} device here; use cpu")
    if kind == "mps" and in_float64:
        raise UserError(f"--device mps: has no float64, as needed by {in_float64}; use cpu")
    return name


def float64_part(pipe: Any) -> str | None:
    """Return what a pipeline computes in float64; None for nothing."""
    from spikediff.diffusion.model import HasExecutions

    if isinstance(pipe.components.get("unet"), HasExecutions):
        return "the exact sums of an integer network"
    return "the draws of tokens" if "vqvae" in pipe.components else None
