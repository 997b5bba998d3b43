"""Editing: inpainting, variations, inversion and interpolation, with the parts of a pipeline."""

from spikediff.pipelines.editing.img2img import SpikingImg2ImgPipeline
from spikediff.pipelines.editing.inpaint import SpikingInpaintPipeline
from spikediff.pipelines.editing.interpolation import (
    interpolate_noise,
    interpolate_seeds,
    slerp,
)
from spikediff.pipelines.editing.inversion import InversionOutput, SpikingInversionPipeline
from spikediff.pipelines.editing.tokens import VQSpikingImg2ImgPipeline, VQSpikingInpaintPipeline

__all__ = [
    "InversionOutput",
    "SpikingImg2ImgPipeline",
    "SpikingInpaintPipeline",
    "SpikingInversionPipeline",
    "VQSpikingImg2ImgPipeline",
    "VQSpikingInpaintPipeline",
    "interpolate_noise",
    "interpolate_seeds",
    "slerp",
]
