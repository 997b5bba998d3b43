"""Our own system: trained with integer spike counts, run with spikes.

To read the system, open in order:

1. `neurons.integer`: `IntegerNeuron`, which emits a count in one pass.
2. `skeleton`, `network`: `IntegerSpikingUNet`; `loss`: denoising, with penalties on spikes and
   changes.
3. `weights`, `convolution`, `whole_layers`: integer weights, exact convolutions of counts, spikes
   and changes, and the layers of the deployment form with its four executions.
4. `deployment`, `folding`: `DeployedIntegerUNet`, and how a trained network becomes one.
5. `structures`, `plan`, `compiled`: the layout for the C kernels, and the compiled form.

docs/systems/integer.md has the equations and the lemma.
"""

from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline, sampled
from spikediff.systems import IMAGES_AND_CLOCK, System, Trainable
from spikediff.systems.integer.compiled import CompiledIntegerUNet as CompiledIntegerUNet
from spikediff.systems.integer.deployment import DeployedIntegerUNet as DeployedIntegerUNet
from spikediff.systems.integer.folding import to_integer as to_integer
from spikediff.systems.integer.loss import IntegerObjective
from spikediff.systems.integer.network import IntegerSpikingUNet as IntegerSpikingUNet
from spikediff.systems.integer.whole_layers import EXECUTIONS as EXECUTIONS

SYSTEM = System(
    networks={
        "integer_unet": Trainable(
            IntegerSpikingUNet,
            {"denoising": IntegerObjective},
            sampled(SpikingDiffusionPipeline),
            from_run=IMAGES_AND_CLOCK,
        )
    }
)
