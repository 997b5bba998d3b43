"""Denoisers and decoders, as diffusers models: `model(sample, timestep).sample`.

The autoencoders know no timestep: `model(images).sample`, and `model.generate(batch_size)`.
"""

from spikediff.models.autoencoder import autoencoder_loss
from spikediff.models.converted import ConvertedUNet, QuantisedUNet
from spikediff.models.ddpm_unet import ddpm_unet
from spikediff.models.fsvae import FSVAE
from spikediff.models.spiking_unet import SpikingUNet
from spikediff.models.twin import ann_twin
from spikediff.models.vae import VAE

__all__ = [
    "FSVAE",
    "VAE",
    "ConvertedUNet",
    "QuantisedUNet",
    "SpikingUNet",
    "ann_twin",
    "autoencoder_loss",
    "ddpm_unet",
]
