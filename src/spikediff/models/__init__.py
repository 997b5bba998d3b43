"""Denoisers and decoders, as diffusers models: `model(sample, timestep).sample`.

The autoencoders know no timestep: `model(images).sample`, and `model.generate(batch_size)`.
"""

from spikediff.models.ann_counterpart import HasCounterpart, ann_counterpart
from spikediff.models.autoencoder import autoencoder_loss
from spikediff.models.converted import ConvertedUNet, QuantisedUNet
from spikediff.models.ddpm_unet import ddpm_unet
from spikediff.models.fsvae import FSVAE
from spikediff.models.merged import (
    CarriedSynapticUNet,
    MergedSynapticUNet,
    carry_currents,
    merge_synapses,
)
from spikediff.models.spiking_image_decoder import SpikingImageDecoder
from spikediff.models.spiking_unet import SpikingUNet
from spikediff.models.synaptic_current_unet import SynapticCurrentUNet
from spikediff.models.vae import VAE
from spikediff.models.vq_svae import VQSVAE, VQSVAEOutput, vq_svae_loss, vq_svae_terms

__all__ = [
    "FSVAE",
    "VAE",
    "VQSVAE",
    "CarriedSynapticUNet",
    "ConvertedUNet",
    "HasCounterpart",
    "MergedSynapticUNet",
    "QuantisedUNet",
    "SpikingImageDecoder",
    "SpikingUNet",
    "SynapticCurrentUNet",
    "VQSVAEOutput",
    "ann_counterpart",
    "autoencoder_loss",
    "carry_currents",
    "ddpm_unet",
    "merge_synapses",
    "vq_svae_loss",
    "vq_svae_terms",
]
