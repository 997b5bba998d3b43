"""Ways of generating images, as diffusers pipelines, and the pictures that they make."""

from spikediff.pipelines.pictures import image_grid, record_frames, save_gif, to_pil
from spikediff.pipelines.spiking_diffusion import SpikingDiffusionPipeline

__all__ = ["SpikingDiffusionPipeline", "image_grid", "record_frames", "save_gif", "to_pil"]
