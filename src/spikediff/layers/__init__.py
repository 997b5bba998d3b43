"""Spiking layers: what stands between the neurons. They know no diffusion."""

from spikediff.layers.batch_invariant import (
    batch_invariant,
    elementwise,
    linear_by_image,
    never_alone,
)
from spikediff.layers.conv import (
    ConvNorm,
    Neuron,
    Norm,
    SpikingLayer,
    pointwise_conv,
    threshold_layer,
)
from spikediff.layers.embeddings import (
    ClassEmbedding,
    TimestepEmbedding,
    class_embedding,
    embed_classes,
    sinusoidal_embedding,
)
from spikediff.layers.norm import ThresholdNorm, running_statistics
from spikediff.layers.temporal_scaling import TemporalScaling, scaling_factors
from spikediff.layers.time import (
    WindowDropout,
    fold_time,
    join_channels,
    nearest_upsample,
    over_time,
    unfold_time,
)

__all__ = [
    "ClassEmbedding",
    "ConvNorm",
    "Neuron",
    "Norm",
    "SpikingLayer",
    "TemporalScaling",
    "ThresholdNorm",
    "TimestepEmbedding",
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
