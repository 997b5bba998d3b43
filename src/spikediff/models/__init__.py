"""Denoisers and decoders, as diffusers models: `model(sample, timestep).sample`."""

from spikediff.models.converted import ConvertedUNet, QuantisedUNet
from spikediff.models.ddpm_unet import ddpm_unet
from spikediff.models.spiking_unet import SpikingUNet
from spikediff.models.synaptic_current_unet import SynapticCurrentUNet
from spikediff.models.twin import ann_twin

__all__ = [
    "ConvertedUNet",
    "QuantisedUNet",
    "SpikingUNet",
    "SynapticCurrentUNet",
    "ann_twin",
    "ddpm_unet",
]
