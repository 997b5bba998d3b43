"""Spiking layers: what stands between the neurons. They know no diffusion."""

from torch import nn

from spikediff.layers.batch_invariant import batch_invariant, elementwise, never_alone
from spikediff.layers.bernoulli_latent import (
    BernoulliLatent,
    delayed,
    draw_choices,
    pick,
    roll_out,
    roll_out_prefixes,
)
from spikediff.layers.class_embedding import (
    ClassEmbedding,
    class_embedding,
    embed_classes,
    linear_by_image,
)
from spikediff.layers.conv_norm import ConvNorm, Norm
from spikediff.layers.draws import Generators, draw_each
from spikediff.layers.dropout import WindowDropout
from spikediff.layers.pointwise import pointwise_conv
from spikediff.layers.post_activation import NormedShortcut, PostActivationBlock
from spikediff.layers.resampling import Downsample, Upsample, nearest_upsample
from spikediff.layers.residual import Neuron, PlainBlock, PreSpikeBlock
from spikediff.layers.running_statistics import running_statistics
from spikediff.layers.scheduled_sampling import (
    Coins,
    draw_coins,
    scheduled_rule,
    scheduled_sampling_probability,
)
from spikediff.layers.spiking_layer import SpikingLayer, threshold_layer
from spikediff.layers.synaptic_resampling import (
    SynapticResampling,
    average_downsample,
    same_size,
)
from spikediff.layers.temporal_scaling import TemporalScaling, scaling_factors
from spikediff.layers.threshold_norm import ThresholdNorm
from spikediff.layers.time import fold_time, join_channels, over_time, unfold_time
from spikediff.layers.timestep_embedding import (
    SpikingTimestepEmbedding,
    TimestepEmbedding,
    sinusoidal_embedding,
)
from spikediff.layers.vector_quantiser import Quantised, VectorQuantiser, perplexity

BLOCKS: dict[str, type[nn.Module]] = {"pre_spike": PreSpikeBlock, "plain": PlainBlock}

__all__ = [
    "BLOCKS",
    "BernoulliLatent",
    "ClassEmbedding",
    "Coins",
    "ConvNorm",
    "Downsample",
    "Generators",
    "Neuron",
    "Norm",
    "NormedShortcut",
    "PlainBlock",
    "PostActivationBlock",
    "PreSpikeBlock",
    "Quantised",
    "SpikingLayer",
    "SpikingTimestepEmbedding",
    "SynapticResampling",
    "TemporalScaling",
    "ThresholdNorm",
    "TimestepEmbedding",
    "Upsample",
    "VectorQuantiser",
    "WindowDropout",
    "average_downsample",
    "batch_invariant",
    "class_embedding",
    "delayed",
    "draw_choices",
    "draw_coins",
    "draw_each",
    "elementwise",
    "embed_classes",
    "fold_time",
    "join_channels",
    "linear_by_image",
    "nearest_upsample",
    "never_alone",
    "over_time",
    "perplexity",
    "pick",
    "pointwise_conv",
    "roll_out",
    "roll_out_prefixes",
    "running_statistics",
    "same_size",
    "scaling_factors",
    "scheduled_rule",
    "scheduled_sampling_probability",
    "sinusoidal_embedding",
    "threshold_layer",
    "unfold_time",
]
