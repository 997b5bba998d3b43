"""FSDDIM's network as stored on a chip: one synapse between every two layers of neurons.

`merge` builds the networks of `network`; `kernels` composes two convolutions into one synapse.
"""
