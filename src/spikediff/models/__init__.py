"""Denoisers and decoders, as diffusers models: `model(sample, timestep).sample`."""

from spikediff.models.ddpm_unet import ann_twin, ddpm_unet
from spikediff.models.spiking_unet import SpikingUNet

__all__ = ["SpikingUNet", "ann_twin", "ddpm_unet"]
