"""FSDDIM's network as a chip would hold it: one synapse between two neurons, whatever was there."""

from spikediff.models.merged.network import MergedSynapticUNet, merge_synapses

__all__ = ["MergedSynapticUNet", "merge_synapses"]
