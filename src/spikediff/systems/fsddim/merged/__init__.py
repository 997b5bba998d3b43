"""FSDDIM's network as a chip would hold it: one synapse between every two layers of neurons.

`merge` makes a network of `network`; `kernels` composes two convolutions into one synapse.
"""
