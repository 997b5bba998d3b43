"""Spiking denoisers converted from ordinary ones: SDM's ANN-to-SNN conversion.

To read the system, open in order:

1. `layers`: activations with as many levels as a window has spikes, and the neurons they become.
2. `replace_modules`, `network`: `QuantisedUNet` and `ConvertedUNet`.
3. `convert`: from a trained denoiser to a quantised one, and from that to a spiking one.
4. `training`: distillation, and block-wise fine-tuning.
5. `layer_errors`: the error that conversion causes in every layer.
6. `released`: the authors' converted checkpoints.

docs/systems/conversion.md explains the method.
"""

from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline, with_noise
from spikediff.systems import Released, System
from spikediff.systems.converted.released import load_sdm_converted, load_sdm_quantised
from spikediff.systems.sddpm import NOISE

_TELLTALES = ("tail.1.act_alpha", "tail.block.1.act_alpha")
_PIPELINE = with_noise(SpikingDiffusionPipeline, "ddim", NOISE)

SYSTEM = System(
    released={
        "sdm-converted": Released(load_sdm_converted, _TELLTALES, _PIPELINE, spiking_steps=3),
        "sdm-quantised": Released(load_sdm_quantised, _TELLTALES, _PIPELINE, spiking_steps=3),
    }
)
