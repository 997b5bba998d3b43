"""Finding a trained model: a pipeline, or the run that made it."""

from pathlib import Path
from typing import Any

from spikediff.errors import UserError


def load_pipeline(source: Path, scheduler: str | None = None, device: str = "cpu") -> Any:
    """Load a `SpikingDiffusionPipeline`.

    Args:
        source: A pipeline's folder, a run folder, or a checkpoint's folder in one. Of a run that
            is not finished, the newest whole checkpoint is taken.
        scheduler: Key of `spikediff.schedulers.SCHEDULERS`; None keeps the pipeline's own.
        device: "cpu", "cuda", or "auto" for the better of the two that is there.

    Raises:
        UserError: There is no model, or its files are damaged; no such scheduler or device.
    """
    pipe = _find_pipeline(source)
    if scheduler is not None:
        from spikediff.schedulers import make_scheduler

        pipe.scheduler = make_scheduler(scheduler, pipe.scheduler.config)
    return pipe.to(_choose_device(device))


def _choose_device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device here; use cpu")
    return name


def _find_pipeline(source: Path) -> Any:
    if not source.is_dir():
        raise UserError(f"{source}: no such folder; give a pipeline or a run folder")
    for folder in (source, source / "pipeline"):
        if (folder / "model_index.json").is_file():
            return _saved_pipeline(folder)
    if (source / "recipe.yaml").is_file():
        return _unfinished_run(source)
    raise UserError(f"{source}: holds neither a pipeline (model_index.json) nor a run")


def _saved_pipeline(folder: Path) -> Any:
    from diffusers.utils import logging

    from spikediff.pipelines import SpikingDiffusionPipeline

    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    if not weights.is_file():
        raise UserError(f"{weights}: missing; weights are read from safetensors only")
    logging.disable_progress_bar()  # "Loading pipeline components", a bar of a tenth of a second
    try:
        pipe = SpikingDiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    except Exception as error:  # diffusers wraps damage in exceptions of many kinds
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}: cannot load the pipeline ({reason})") from error
    return pipe


def _unfinished_run(root: Path) -> Any:
    from spikediff.pipelines import SpikingDiffusionPipeline
    from spikediff.schedulers import make_scheduler
    from spikediff.training import build, load_recipe
    from spikediff.training.checkpoint import load_latest

    recipe = load_recipe(root / "recipe.yaml")
    checkpoint = load_latest(root / "checkpoints")
    if checkpoint is None:
        raise UserError(f"{root}: the run has no checkpoint yet")
    weights = checkpoint.tensors["average"]
    channels = weights["stem.encode.conv.weight"].shape[1]
    size = checkpoint.state["image_size"]
    model = build.build_model(recipe, size, channels)
    model.load_state_dict(weights)
    schedule = build.build_noise_schedule(recipe.diffusion)
    scheduler = make_scheduler(recipe.sampling.scheduler, schedule.config)
    return SpikingDiffusionPipeline(model.eval(), scheduler)
