"""Spiking layers: what stands between the neurons. They know no diffusion."""

from torch import nn

from spikediff.layers.batch_invariant import batch_invariant, elementwise, never_alone
from spikediff.layers.class_embedding import (
    ClassEmbedding,
    class_embedding,
    embed_classes,
    linear_by_image,
)
from spikediff.layers.conv import ConvNorm, Norm, pointwise_conv
from spikediff.layers.norm import ThresholdNorm, running_statistics
from spikediff.layers.resampling import Downsample, Upsample, nearest_upsample
from spikediff.layers.residual import Neuron, PlainBlock, PreSpikeBlock, WindowDropout
from spikediff.layers.spiking_layer import SpikingLayer, threshold_layer
from spikediff.layers.temporal_scaling import TemporalScaling, scaling_factors
from spikediff.layers.time import fold_time, join_channels, over_time, unfold_time
from spikediff.layers.timestep_embedding import (
    SpikingTimestepEmbedding,
    TimestepEmbedding,
    sinusoidal_embedding,
)

BLOCKS: dict[str, type[nn.Module]] = {"pre_spike": PreSpikeBlock, "plain": PlainBlock}

__all__ = [
    "BLOCKS",
    "ClassEmbedding",
    "ConvNorm",
    "Downsample",
    "Neuron",
    "Norm",
    "PlainBlock",
    "PreSpikeBlock",
    "SpikingLayer",
    "SpikingTimestepEmbedding",
    "TemporalScaling",
    "ThresholdNorm",
    "TimestepEmbedding",
    "Upsample",
    "WindowDropout",
    "batch_invariant",
    "class_embedding",
    "elementwise",
    "embed_classes",
    "fold_time",
    "join_channels",
    "linear_by_image",
    "nearest_upsample",
    "never_alone",
    "over_time",
    "pointwise_conv",
    "running_statistics",
    "scaling_factors",
    "sinusoidal_embedding",
    "threshold_layer",
    "unfold_time",
]
