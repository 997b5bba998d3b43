"""What `import spikediff` offers; `__init__.py` reads it, so every name stands here alone."""

from spikediff.conversion import convert as convert
from spikediff.energy import EnergyMeter as EnergyMeter
from spikediff.errors import UserError as UserError
from spikediff.events import compile_for_inference as compile_for_inference
from spikediff.guidance import threshold_guidance as threshold_guidance
from spikediff.inspection import SpikeRecorder as SpikeRecorder
from spikediff.interop import load_authors_checkpoint as load_authors_checkpoint
from spikediff.models import FSVAE as FSVAE
from spikediff.models import VAE as VAE
from spikediff.models import VQSVAE as VQSVAE
from spikediff.models import SpikingImageDecoder as SpikingImageDecoder
from spikediff.models import SpikingUNet as SpikingUNet
from spikediff.models import SynapticCurrentUNet as SynapticCurrentUNet
from spikediff.neurons import IF as IF
from spikediff.neurons import LIF as LIF
from spikediff.neurons import IntegerNeuron as IntegerNeuron
from spikediff.neurons import ParametricLIF as ParametricLIF
from spikediff.schedulers import AbsorbingStateScheduler as AbsorbingStateScheduler
from spikediff.schedulers import AnalyticDPMScheduler as AnalyticDPMScheduler
from spikediff.schedulers import SynapticCurrentDDIMScheduler as SynapticCurrentDDIMScheduler
from spikediff.schedulers import make_scheduler as make_scheduler
from spikediff.systems.integer import DeployedIntegerUNet as DeployedIntegerUNet
from spikediff.systems.integer import IntegerSpikingUNet as IntegerSpikingUNet
from spikediff.systems.integer import to_integer as to_integer
from spikediff.verbs import compare as compare
from spikediff.verbs import evaluate as evaluate
from spikediff.verbs import export as export
from spikediff.verbs import list_models as list_models
from spikediff.verbs import list_recipes as list_recipes
from spikediff.verbs import load as load
from spikediff.verbs import train as train

__version__: str
