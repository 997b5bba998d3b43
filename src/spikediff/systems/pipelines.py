"""Ways of generating images and signals, as diffusers pipelines, and pictures of them."""

from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.systems.fsddim.pipeline import SynapticCurrentPipeline
from spikediff.systems.fsvae.pipeline import VAEPipeline
from spikediff.systems.spiking_diffusion.pipeline import VQSpikingDiffusionPipeline

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
