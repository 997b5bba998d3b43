"""Denoisers and decoders, as diffusers models: `model(sample, timestep).sample`."""

from spikediff.models.converted import ConvertedUNet, QuantisedUNet
from spikediff.models.ddpm_unet import ddpm_unet
from spikediff.models.merged import (
    CarriedSynapticUNet,
    MergedSynapticUNet,
    carry_currents,
    merge_synapses,
)
from spikediff.models.spiking_image_decoder import SpikingImageDecoder
from spikediff.models.spiking_unet import SpikingUNet
from spikediff.models.synaptic_current_unet import SynapticCurrentUNet
from spikediff.models.twin import ann_twin
from spikediff.models.vq_svae import VQSVAE, VQSVAEOutput, vq_svae_loss, vq_svae_terms

__all__ = [
    "VQSVAE",
    "CarriedSynapticUNet",
    "ConvertedUNet",
    "MergedSynapticUNet",
    "QuantisedUNet",
    "SpikingImageDecoder",
    "SpikingUNet",
    "SynapticCurrentUNet",
    "VQSVAEOutput",
    "ann_twin",
    "carry_currents",
    "ddpm_unet",
    "merge_synapses",
    "vq_svae_loss",
    "vq_svae_terms",
]
