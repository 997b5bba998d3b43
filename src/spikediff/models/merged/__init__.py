"""FSDDIM's network as a chip would hold it: one synapse between two neurons, whatever was there."""

from spikediff.models.merged.carried import CarriedSynapticUNet, carry_currents
from spikediff.models.merged.network import MergedSynapticUNet, merge_synapses

__all__ = ["CarriedSynapticUNet", "MergedSynapticUNet", "carry_currents", "merge_synapses"]
