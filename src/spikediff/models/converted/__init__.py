"""A `UNet2DModel` with quantised activations, and the spiking network that it converts to.

The two have the same weights under the same names: a quantised activation of one is a layer of
neurons in the other, and its clip is their threshold.
"""

from spikediff.models.converted.converted_if import ConvertedIF
from spikediff.models.converted.converted_unet import NORMS, SPIKES, ConvertedUNet
from spikediff.models.converted.quantised_relu import QuantisedReLU, quantise_activation
from spikediff.models.converted.quantised_unet import QuantisedUNet
from spikediff.models.converted.shared_norm import SharedGroupNorm
from spikediff.models.converted.synapses import QuantisedSynapse, SpikingSynapse
from spikediff.models.converted.time_mean_attention import TimeMeanAttention

__all__ = [
    "NORMS",
    "SPIKES",
    "ConvertedIF",
    "ConvertedUNet",
    "QuantisedReLU",
    "QuantisedSynapse",
    "QuantisedUNet",
    "SharedGroupNorm",
    "SpikingSynapse",
    "TimeMeanAttention",
    "quantise_activation",
]
