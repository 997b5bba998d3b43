"""SDDPM (Cao et al., "Spiking denoising diffusion probabilistic models", WACV 2024).

To read the system, open in order:

1. `blocks` and `layers.coding`: its residual block, direct coding and the read-out.
2. `network`: `SpikingUNet`, the denoiser.
3. `diffusion.objective`: the denoising loss, equation 14 of DDPM.
4. `diffusion.denoising_pipeline`: the pipeline that samples with it.
5. `released`: the authors' checkpoints.

docs/systems/sddpm.md lists where paper and code differ.
"""

from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline, sampled, with_noise
from spikediff.diffusion.objective import DenoisingObjective, RunParts
from spikediff.systems import IMAGES_AND_CLOCK, Released, System, Trainable
from spikediff.systems.sddpm.network import SpikingUNet
from spikediff.systems.sddpm.released import load_sddpm

# Noise on DDPM's linear schedule; the variance is that of the authors' sampler.
NOISE = {
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "prediction_type": "epsilon",
    "variance_type": "fixed_large",
}


def sampled_signals(model: ModelMixin, run: RunParts) -> DiffusionPipeline:
    """Return a pipeline that samples signals in the unit of the recording."""
    pipe: DiffusionPipeline = SpikingDiffusionPipeline(
        model, run.sampler, signal_range=run.recipe.data.signal_range
    )
    return pipe


SYSTEM = System(
    networks={
        "spiking_unet": Trainable(
            SpikingUNet,
            {"denoising": DenoisingObjective},
            sampled(SpikingDiffusionPipeline),
            from_run=IMAGES_AND_CLOCK,
            fixed={"out_channels": None, "dimensions": 2},
            any_spiking_steps=True,
        ),
        "spiking_unet_1d": Trainable(
            SpikingUNet,
            {"denoising": DenoisingObjective},
            sampled_signals,
            items="signals",
            preview="signals",
            from_run=IMAGES_AND_CLOCK,
            fixed={"out_channels": None, "dimensions": 1},
            any_spiking_steps=True,
        ),
    },
    released={
        "sddpm": Released(
            load_sddpm,
            ("conv_identity.weight",),
            with_noise(SpikingDiffusionPipeline, "ddim", NOISE),
        )
    },
)
