"""From an ordinary denoiser to a spiking one: quantise, train, convert, fine-tune, probe."""

from spikediff.conversion.convert import convert
from spikediff.conversion.fine_tune import BlockLoss, fine_tune
from spikediff.conversion.noised import NoisedImages
from spikediff.conversion.probe import LayerError, plot_conversion_errors, probe
from spikediff.conversion.quantise import distil, quantise
from spikediff.models.converted import ConvertedUNet, QuantisedReLU, QuantisedUNet

__all__ = [
    "BlockLoss",
    "ConvertedUNet",
    "LayerError",
    "NoisedImages",
    "QuantisedReLU",
    "QuantisedUNet",
    "convert",
    "distil",
    "fine_tune",
    "plot_conversion_errors",
    "probe",
    "quantise",
]
