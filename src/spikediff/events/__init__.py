"""Event-driven inference: spikes as bits, and synapses that add the weights of active channels."""

from spikediff.events.compile import PackedNeuron as PackedNeuron
from spikediff.events.compile import compile_for_inference as compile_for_inference
from spikediff.events.packed import PackedSpikes as PackedSpikes
from spikediff.events.packed import pack as pack
from spikediff.events.synapse import EventConv2d as EventConv2d
from spikediff.events.synapse import spike_conv2d as spike_conv2d
from spikediff.events.training import SpikeConv2d as SpikeConv2d
from spikediff.events.training import train_event_driven as train_event_driven
from spikediff.events.weights import Precision as Precision
from spikediff.events.weights import quantise as quantise
