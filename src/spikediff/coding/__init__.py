"""Images to windows of currents or spikes, and back."""

from collections.abc import Callable

from torch import Tensor

from spikediff.coding.direct import direct
from spikediff.coding.postsynaptic import postsynaptic_potential
from spikediff.coding.psp_distance import psp_mmd
from spikediff.coding.readout import decayed_sum, last, mean

ENCODERS: dict[str, Callable[[Tensor, int], Tensor]] = {"direct": direct}
DECODERS: dict[str, Callable[[Tensor], Tensor]] = {
    "decayed_sum": decayed_sum,
    "mean": mean,
    "last": last,
}

__all__ = [
    "DECODERS",
    "ENCODERS",
    "decayed_sum",
    "direct",
    "last",
    "mean",
    "postsynaptic_potential",
    "psp_mmd",
]
