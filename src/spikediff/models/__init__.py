"""Denoisers and decoders, as diffusers models: `model(sample, timestep).sample`."""

from spikediff.models.converted import ConvertedUNet, QuantisedUNet
from spikediff.models.ddpm_unet import ddpm_unet
from spikediff.models.spiking_unet import SpikingUNet
from spikediff.models.twin import ann_twin

__all__ = ["ConvertedUNet", "QuantisedUNet", "SpikingUNet", "ann_twin", "ddpm_unet"]
