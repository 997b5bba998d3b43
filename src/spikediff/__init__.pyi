"""What `import spikediff` offers; `__init__.py` reads it, so every name stands here alone."""

from spikediff.diffusion.analytic_dpm import AnalyticDPMScheduler as AnalyticDPMScheduler
from spikediff.diffusion.autoencoder_pipeline import VAEPipeline as VAEPipeline
from spikediff.diffusion.denoising_pipeline import (
    SpikingDiffusionPipeline as SpikingDiffusionPipeline,
)
from spikediff.diffusion.saving import AnyNetwork as AnyNetwork
from spikediff.diffusion.schedulers import make_scheduler as make_scheduler
from spikediff.editing.inpaint import inpaint as inpaint
from spikediff.editing.interpolate import interpolate_seeds as interpolate_seeds
from spikediff.editing.invert import invert as invert
from spikediff.editing.pipelines import SpikingImg2ImgPipeline as SpikingImg2ImgPipeline
from spikediff.editing.pipelines import SpikingInpaintPipeline as SpikingInpaintPipeline
from spikediff.editing.pipelines import SpikingInversionPipeline as SpikingInversionPipeline
from spikediff.editing.token_pipelines import VQSpikingImg2ImgPipeline as VQSpikingImg2ImgPipeline
from spikediff.editing.token_pipelines import VQSpikingInpaintPipeline as VQSpikingInpaintPipeline
from spikediff.editing.vary import vary as vary
from spikediff.energy.meter import EnergyMeter as EnergyMeter
from spikediff.errors import UserError as UserError
from spikediff.events.compile import compile_for_inference as compile_for_inference
from spikediff.inspection.recorder import SpikeRecorder as SpikeRecorder
from spikediff.neurons.integer import IntegerNeuron as IntegerNeuron
from spikediff.neurons.integrate_and_fire import IF as IF
from spikediff.neurons.integrate_and_fire import LIF as LIF
from spikediff.neurons.integrate_and_fire import ParametricLIF as ParametricLIF
from spikediff.systems.converted.convert import convert as convert
from spikediff.systems.converted.network import ConvertedUNet as ConvertedUNet
from spikediff.systems.converted.network import QuantisedUNet as QuantisedUNet
from spikediff.systems.fsddim.merged.network import CarriedSynapticUNet as CarriedSynapticUNet
from spikediff.systems.fsddim.merged.network import MergedSynapticUNet as MergedSynapticUNet
from spikediff.systems.fsddim.network import SynapticCurrentUNet as SynapticCurrentUNet
from spikediff.systems.fsddim.pipeline import SynapticCurrentPipeline as SynapticCurrentPipeline
from spikediff.systems.fsddim.scheduler import (
    SynapticCurrentDDIMScheduler as SynapticCurrentDDIMScheduler,
)
from spikediff.systems.fsvae.network import FSVAE as FSVAE
from spikediff.systems.fsvae.vae import VAE as VAE
from spikediff.systems.integer.deployment import DeployedIntegerUNet as DeployedIntegerUNet
from spikediff.systems.integer.folding import to_integer as to_integer
from spikediff.systems.integer.network import IntegerSpikingUNet as IntegerSpikingUNet
from spikediff.systems.released import load_authors_checkpoint as load_authors_checkpoint
from spikediff.systems.sddpm.network import SpikingUNet as SpikingUNet
from spikediff.systems.sdm.threshold_guidance import threshold_guidance as threshold_guidance
from spikediff.systems.spiking_diffusion.absorbing import (
    AbsorbingStateScheduler as AbsorbingStateScheduler,
)
from spikediff.systems.spiking_diffusion.decoder import SpikingImageDecoder as SpikingImageDecoder
from spikediff.systems.spiking_diffusion.pipeline import (
    VQSpikingDiffusionPipeline as VQSpikingDiffusionPipeline,
)
from spikediff.systems.spiking_diffusion.vq_svae import VQSVAE as VQSVAE
from spikediff.verbs import compare as compare
from spikediff.verbs import evaluate as evaluate
from spikediff.verbs import export as export
from spikediff.verbs import list_models as list_models
from spikediff.verbs import list_recipes as list_recipes
from spikediff.verbs import load as load
from spikediff.verbs import train as train

__all__: list[str]
__version__: str
