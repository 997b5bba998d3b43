"""The ordinary U-Net of DDPM (Ho et al., 2020), the counterpart of spiking ones: `network`."""

from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline, sampled
from spikediff.diffusion.objective import DenoisingObjective
from spikediff.systems import System, Trainable
from spikediff.systems.ddpm.network import ddpm_unet

SYSTEM = System(
    networks={
        "ddpm_unet": Trainable(
            ddpm_unet,
            {"denoising": DenoisingObjective},
            sampled(SpikingDiffusionPipeline),
            fixed={"out_channels": None},
        )
    }
)
