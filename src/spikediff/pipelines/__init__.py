"""Ways of generating images and signals, as diffusers pipelines, and pictures of them."""

from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from spikediff.pipelines.autoencoder import VAEPipeline
from spikediff.pipelines.calibrate import calibration_timesteps, estimate_second_moment
from spikediff.pipelines.calibration_file import load_calibration, save_calibration
from spikediff.pipelines.compiled import CompiledInference
from spikediff.pipelines.conditioning import classes_in_turn
from spikediff.pipelines.editing import (
    InversionOutput,
    SpikingImg2ImgPipeline,
    SpikingInpaintPipeline,
    SpikingInversionPipeline,
    VQSpikingImg2ImgPipeline,
    VQSpikingInpaintPipeline,
    interpolate_noise,
    interpolate_seeds,
    slerp,
)
from spikediff.pipelines.pictures import image_grid, record_frames, save_gif, to_pil
from spikediff.pipelines.signals import plot_signals
from spikediff.pipelines.spiking_diffusion import SpikingDiffusionPipeline
from spikediff.pipelines.synaptic_current import SynapticCurrentOutput, SynapticCurrentPipeline
from spikediff.pipelines.vq_spiking_diffusion import VQSpikingDiffusionPipeline

# A saved pipeline names its class; of any other one, the parts go into the first of these.
PIPELINES: dict[str, type[DiffusionPipeline]] = {
    pipeline.__name__: pipeline
    for pipeline in (
        SpikingDiffusionPipeline,
        SynapticCurrentPipeline,
        VQSpikingDiffusionPipeline,
        VAEPipeline,
    )
}

__all__ = [
    "PIPELINES",
    "CompiledInference",
    "InversionOutput",
    "SpikingDiffusionPipeline",
    "SpikingImg2ImgPipeline",
    "SpikingInpaintPipeline",
    "SpikingInversionPipeline",
    "SynapticCurrentOutput",
    "SynapticCurrentPipeline",
    "VAEPipeline",
    "VQSpikingDiffusionPipeline",
    "VQSpikingImg2ImgPipeline",
    "VQSpikingInpaintPipeline",
    "calibration_timesteps",
    "classes_in_turn",
    "estimate_second_moment",
    "image_grid",
    "interpolate_noise",
    "interpolate_seeds",
    "load_calibration",
    "plot_signals",
    "record_frames",
    "save_calibration",
    "save_gif",
    "slerp",
    "to_pil",
]
