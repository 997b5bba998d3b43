"""Images to windows of currents or spikes, and back."""

from collections.abc import Callable

from torch import Tensor

from spikediff.coding.direct import direct
from spikediff.coding.postsynaptic import postsynaptic_potential
from spikediff.coding.psp_distance import psp_mmd
from spikediff.coding.readout import decay_weights, decayed_sum, last, mean, weighted_sum
from spikediff.coding.spike_feature import rate_and_membrane, rate_and_potential

ENCODERS: dict[str, Callable[[Tensor, int], Tensor]] = {"direct": direct}
DECODERS: dict[str, Callable[[Tensor], Tensor]] = {
    "decayed_sum": decayed_sum,
    "mean": mean,
    "last": last,
}

__all__ = [
    "DECODERS",
    "ENCODERS",
    "decay_weights",
    "decayed_sum",
    "direct",
    "last",
    "mean",
    "postsynaptic_potential",
    "psp_mmd",
    "rate_and_membrane",
    "rate_and_potential",
    "weighted_sum",
]
