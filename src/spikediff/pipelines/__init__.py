"""Ways of generating images, as diffusers pipelines, and the pictures that they make."""

from spikediff.pipelines.autoencoder import VAEPipeline
from spikediff.pipelines.calibrate import calibration_timesteps, estimate_second_moment
from spikediff.pipelines.calibration_file import load_calibration, save_calibration
from spikediff.pipelines.pictures import image_grid, record_frames, save_gif, to_pil
from spikediff.pipelines.spiking_diffusion import SpikingDiffusionPipeline

__all__ = [
    "SpikingDiffusionPipeline",
    "VAEPipeline",
    "calibration_timesteps",
    "estimate_second_moment",
    "image_grid",
    "load_calibration",
    "record_frames",
    "save_calibration",
    "save_gif",
    "to_pil",
]
