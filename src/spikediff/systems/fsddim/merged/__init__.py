"""FSDDIM's network as a chip would hold it: one synapse between every two populations of neurons.

Read `network` first; `populations` says what drives a population, `synapses` how linear maps merge.
"""
