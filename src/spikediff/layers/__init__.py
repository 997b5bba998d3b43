"""Spiking layers: what stands between the neurons. They know no diffusion."""

from torch import nn

from spikediff.layers.conv_norm import ConvNorm, Norm
from spikediff.layers.dropout import WindowDropout
from spikediff.layers.resampling import Downsample, Upsample, nearest_upsample
from spikediff.layers.residual import Neuron, PlainBlock, PreSpikeBlock
from spikediff.layers.spiking_conv import SpikingConv
from spikediff.layers.temporal_scaling import TemporalScaling, scaling_factors
from spikediff.layers.threshold_norm import ThresholdNorm
from spikediff.layers.time import fold_time, over_time, unfold_time
from spikediff.layers.timestep_embedding import TimestepEmbedding, sinusoidal_embedding
from spikediff.layers.vector_quantiser import Quantised, VectorQuantiser, perplexity

BLOCKS: dict[str, type[nn.Module]] = {"pre_spike": PreSpikeBlock, "plain": PlainBlock}

__all__ = [
    "BLOCKS",
    "ConvNorm",
    "Downsample",
    "Neuron",
    "Norm",
    "PlainBlock",
    "PreSpikeBlock",
    "Quantised",
    "SpikingConv",
    "TemporalScaling",
    "ThresholdNorm",
    "TimestepEmbedding",
    "Upsample",
    "VectorQuantiser",
    "WindowDropout",
    "fold_time",
    "nearest_upsample",
    "over_time",
    "perplexity",
    "scaling_factors",
    "sinusoidal_embedding",
    "unfold_time",
]
