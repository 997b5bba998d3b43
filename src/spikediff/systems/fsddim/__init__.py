"""FSDDIM (Watanabe et al., "Fully spiking denoising diffusion implicit models", 2023).

To read the system, open in order:

1. `blocks`: the residual block whose neuron fires last, and resampling.
2. `network`: `SynapticCurrentUNet`, from currents to currents.
3. `loss`: synaptic current learning.
4. `scheduler`: deterministic DDIM as a rotation.
5. `latent_space`, `pipeline`: images as currents, and sampling in currents.
6. `merged`: the network as stored on a chip, with one synapse between two layers of neurons.
7. `released`: the authors' checkpoints.

docs/systems/fsddim.md lists where paper and code differ.
"""

from spikediff.diffusion.denoising_pipeline import sampled, with_noise
from spikediff.diffusion.objective import DenoisingObjective
from spikediff.systems import IMAGES_AND_CLOCK, Released, System, Trainable
from spikediff.systems.fsddim.loss import SynapticCurrentObjective
from spikediff.systems.fsddim.network import SynapticCurrentUNet
from spikediff.systems.fsddim.pipeline import SynapticCurrentPipeline
from spikediff.systems.fsddim.released import load_fsddim

_NOISE = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}

SYSTEM = System(
    networks={
        "synaptic_current_unet": Trainable(
            SynapticCurrentUNet,
            {"denoising": DenoisingObjective, "synaptic_current": SynapticCurrentObjective},
            sampled(SynapticCurrentPipeline),
            from_run=IMAGES_AND_CLOCK,
            fixed={"out_channels": None},
            any_spiking_steps=True,
        )
    },
    released={
        "fsddim": Released(
            load_fsddim,
            ("mid_block1.conv1.weight",),
            with_noise(SynapticCurrentPipeline, "synaptic-ddim", _NOISE),
            options=("residual_alpha",),
        )
    },
)
