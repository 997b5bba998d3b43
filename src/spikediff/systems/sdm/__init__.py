"""SDM: SDDPM with temporal scaling (Cao et al., "Spiking diffusion models", IEEE TAI 2025).

To read the system, open in order:

1. `layers.temporal_scaling`: the temporal-wise spiking mechanism (TSM).
2. `systems.sddpm.network`: `SpikingUNet(temporal_scaling=True)` is SDM's network.
3. `threshold_guidance`: sampling with thresholds other than those of training.
4. `scale_search`: choosing the thresholds on held-out data.
5. `released`: the authors' checkpoints. Those converted from ordinary networks are in
   `systems.converted`.

docs/systems/sdm.md lists where paper and code differ.
"""

from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline, with_noise
from spikediff.systems import Released, System
from spikediff.systems.sddpm import NOISE
from spikediff.systems.sdm.released import load_sdm

SYSTEM = System(
    released={
        "sdm": Released(
            load_sdm, ("conv.tsmp",), with_noise(SpikingDiffusionPipeline, "ddim", NOISE)
        )
    }
)
