"""Event-driven inference: spikes as bits, and synapses that add the weights of what fired."""

from spikediff.events.compile import compile_for_inference
from spikediff.events.folding import fold_norms
from spikediff.events.neuron import PackedNeuron
from spikediff.events.packed import PackedSpikes, activity_of, pack
from spikediff.events.synapse import EventConv2d, spike_conv2d

__all__ = [
    "EventConv2d",
    "PackedNeuron",
    "PackedSpikes",
    "activity_of",
    "compile_for_inference",
    "fold_norms",
    "pack",
    "spike_conv2d",
]
