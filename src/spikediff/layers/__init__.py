"""Spiking layers: what stands between the neurons. They know no diffusion."""

from torch import nn

from spikediff.layers.conv_norm import ConvNorm, Norm
from spikediff.layers.dropout import WindowDropout
from spikediff.layers.pointwise import pointwise_conv
from spikediff.layers.post_activation import PostActivationBlock
from spikediff.layers.resampling import Downsample, Upsample, nearest_upsample
from spikediff.layers.residual import Neuron, PlainBlock, PreSpikeBlock
from spikediff.layers.spiking_conv import SpikingConv
from spikediff.layers.synaptic_resampling import (
    SynapticResampling,
    average_downsample,
    same_size,
)
from spikediff.layers.temporal_scaling import TemporalScaling, scaling_factors
from spikediff.layers.threshold_norm import ThresholdNorm
from spikediff.layers.time import fold_time, over_time, unfold_time
from spikediff.layers.timestep_embedding import (
    SpikingTimestepEmbedding,
    TimestepEmbedding,
    sinusoidal_embedding,
)
from spikediff.layers.vector_quantiser import Quantised, VectorQuantiser, perplexity

BLOCKS: dict[str, type[nn.Module]] = {"pre_spike": PreSpikeBlock, "plain": PlainBlock}

__all__ = [
    "BLOCKS",
    "ConvNorm",
    "Downsample",
    "Neuron",
    "Norm",
    "PlainBlock",
    "PostActivationBlock",
    "PreSpikeBlock",
    "Quantised",
    "SpikingConv",
    "SpikingTimestepEmbedding",
    "SynapticResampling",
    "TemporalScaling",
    "ThresholdNorm",
    "TimestepEmbedding",
    "Upsample",
    "VectorQuantiser",
    "WindowDropout",
    "average_downsample",
    "fold_time",
    "nearest_upsample",
    "over_time",
    "perplexity",
    "pointwise_conv",
    "same_size",
    "scaling_factors",
    "sinusoidal_embedding",
    "unfold_time",
]
