"""Denoisers and decoders, as diffusers models: `model(sample, timestep).sample`."""

from spikediff.models.converted import ConvertedUNet, QuantisedUNet
from spikediff.models.ddpm_unet import ddpm_unet
from spikediff.models.merged import (
    CarriedSynapticUNet,
    MergedSynapticUNet,
    carry_currents,
    merge_synapses,
)
from spikediff.models.spiking_unet import SpikingUNet
from spikediff.models.synaptic_current_unet import SynapticCurrentUNet
from spikediff.models.twin import ann_twin

__all__ = [
    "CarriedSynapticUNet",
    "ConvertedUNet",
    "MergedSynapticUNet",
    "QuantisedUNet",
    "SpikingUNet",
    "SynapticCurrentUNet",
    "ann_twin",
    "carry_currents",
    "ddpm_unet",
    "merge_synapses",
]
