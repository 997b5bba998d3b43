"""Event-driven inference: spikes as bits, and synapses that add the weights of firing channels."""

from spikediff.events.compile import PackedNeuron, compile_for_inference
from spikediff.events.packed import PackedSpikes, pack
from spikediff.events.synapse import EventConv2d, spike_conv2d
from spikediff.events.training import SpikeConv2d, train_event_driven
from spikediff.events.weights import Precision, quantise

__all__ = [
    "EventConv2d",
    "PackedNeuron",
    "PackedSpikes",
    "Precision",
    "SpikeConv2d",
    "compile_for_inference",
    "pack",
    "quantise",
    "spike_conv2d",
    "train_event_driven",
]
