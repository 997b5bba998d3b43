"""`spikediff calibrate SOURCE`: measure a model for Analytic-DPM."""

from dataclasses import dataclass
from typing import Annotated

from spikediff.cli.arguments import Range
from spikediff.cli.options import (
    BatchSize,
    DataDir,
    Dataset,
    Device,
    Flat,
    NumImages,
    Report,
    SourceFolder,
)
from spikediff.progress import at_work


@dataclass(frozen=True)
class CalibrateOptions:
    """Measure the second moment of a model's noise estimates, for `--scheduler analytic-dpm`.

    It is measured on training images and stored beside the weights; for a shipped model or one of
    the Hub, in the cache ($SPIKEDIFF_CACHE or ~/.cache/spikediff).
    """

    source: SourceFolder
    dataset: Dataset = None
    data_dir: DataDir = None
    num_images: NumImages = 256
    num_timesteps: Annotated[int, Range(2, 10**6)] = 51
    """The number of measured timesteps; the others are interpolated."""
    seed: Annotated[int, Range(0, 2**62)] = 0
    """The seed of the noise and of the choice of images."""
    clip_last_noise: Annotated[float | None, Range(0, 255)] = None
    """The maximum noise of the last step, in grey levels; by default 2, or 1 for a cosine
    schedule."""
    batch_size: BatchSize = 64
    device: Device = "auto"
    report: Flat[Report] = Report()


def run(options: CalibrateOptions) -> None:
    from spikediff.diffusion.calibration import (
        calibration_timesteps,
        estimate_second_moment,
        save_calibration,
        weights_digest,
    )
    from spikediff.diffusion.loop import space_of
    from spikediff.diffusion.schedulers import make_scheduler
    from spikediff.hub.load import (
        denoiser_of,
        kept_calibrations,
        load_pipeline,
        local_folder,
        pipeline_folder,
    )
    from spikediff.hub.run_data import find_dataset, training_images

    dataset, data_dir = find_dataset(options.source, options.dataset, options.data_dir)
    source = local_folder(options.source)
    pipe, folder = load_pipeline(source, device=options.device), pipeline_folder(source)
    unet = denoiser_of(pipe, options.source)
    weights_digest(folder)  # or an error, before minutes of work
    config = pipe.scheduler.config
    space_of(unet).check_scheduler(make_scheduler("analytic-dpm", config))
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
    clip = 1.0 if config.beta_schedule == "squaredcos_cap_v2" else 2.0
    settings = {
        "second_moment": h.tolist(),
        "second_moment_timesteps": timesteps,
        "clip_last_noise": clip if options.clip_last_noise is None else options.clip_last_noise,
    }
    facts = {"dataset": dataset, "images": len(images), "seed": options.seed}
    path = save_calibration(folder, settings, facts, kept_calibrations(folder))
    options.report.write(settings | facts)
    print(f"h at {len(timesteps)} timesteps over {len(images)} images of {dataset} in {path}")
