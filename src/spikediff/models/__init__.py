"""Denoisers and decoders, as diffusers models: `model(sample, timestep).sample`."""

from spikediff.models.spiking_unet import SpikingUNet

__all__ = ["SpikingUNet"]
