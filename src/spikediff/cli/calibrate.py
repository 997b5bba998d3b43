"""`spikediff calibrate SOURCE`: measure a model for Analytic-DPM."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from spikediff.cli.arguments import parse
from spikediff.cli.outputs import write_json
from spikediff.hub.run_data import find_dataset, training_images
from spikediff.progress import at_work


@dataclass(frozen=True)
class CalibrateOptions:
    """Measure how strong a model's noise estimates are; `--scheduler analytic-dpm` needs it.

    The result is kept beside the weights; of a model that ships with the package, in the cache
    ($SPIKEDIFF_CACHE or ~/.cache/spikediff). It is measured on training images.
    """

    source: Annotated[Path, tyro.conf.Positional]
    """A pipeline's folder or the folder of a finished run."""
    dataset: str | None = None
    """Whose images; the data set of the run's recipe where it is not given."""
    data_dir: Path | None = None
    """Folder that holds the data sets; that of the run's recipe where it is not given."""
    num_images: int = 256
    """Images that the mean is taken over."""
    num_timesteps: int = 51
    """Timesteps that are measured; between them it is interpolated."""
    seed: int = 0
    """Seed of the noise, and of which images."""
    clip_last_noise: float | None = None
    """Largest noise of the last step, in grey levels; by default 2, or 1 for a cosine schedule."""
    batch_size: int = 64
    """Images at a time."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    json: Path | None = None
    """Also write the curve, for a program to read."""


def run(arguments: list[str]) -> int:
    """Measure and keep."""
    options = parse(CalibrateOptions, arguments, "spikediff calibrate")
    dataset, data_dir = find_dataset(options.source, options.dataset, options.data_dir)

    from spikediff.diffusion.calibration import (
        calibration_timesteps,
        estimate_second_moment,
        save_calibration,
    )
    from spikediff.hub.load import denoiser_of, kept_calibrations, load_pipeline, pipeline_folder

    folder = pipeline_folder(options.source)
    pipe = load_pipeline(options.source, device=options.device)
    unet = denoiser_of(pipe, options.source)
    config = pipe.scheduler.config
    images = training_images(pipe, dataset, data_dir, options.num_images, options.seed)
    timesteps = calibration_timesteps(config.num_train_timesteps, options.num_timesteps)
    with at_work(f"measuring {len(images)} images at {len(timesteps)} timesteps"):
        h = estimate_second_moment(
            unet,
            images,
            pipe.scheduler.alphas_cumprod,
            timesteps,
            seed=options.seed,
            batch_size=options.batch_size,
            prediction_type=config.prediction_type,
            device=pipe.device,
        )
    cosine = config.beta_schedule == "squaredcos_cap_v2"
    clip = options.clip_last_noise
    settings = {
        "second_moment": h.tolist(),
        "second_moment_timesteps": timesteps,
        "clip_last_noise": (1.0 if cosine else 2.0) if clip is None else clip,
    }
    facts = {"dataset": dataset, "images": len(images), "seed": options.seed}
    path = save_calibration(folder, settings, facts, kept_calibrations(folder))
    write_json(options.json, settings | facts)
    print(f"h at {len(timesteps)} timesteps over {len(images)} images of {dataset} in {path}")
    return 0
