"""Layers between the neurons, independent of diffusion and shared by several systems."""

from spikediff.layers.batch_invariant import batch_invariant as batch_invariant
from spikediff.layers.batch_invariant import never_alone as never_alone
from spikediff.layers.conv import ConvNorm as ConvNorm
from spikediff.layers.conv import Neuron as Neuron
from spikediff.layers.conv import SpikingLayer as SpikingLayer
from spikediff.layers.conv import pointwise_conv as pointwise_conv
from spikediff.layers.conv import threshold_layer as threshold_layer
from spikediff.layers.embeddings import ClassEmbedding as ClassEmbedding
from spikediff.layers.embeddings import TimestepEmbedding as TimestepEmbedding
from spikediff.layers.embeddings import class_embedding as class_embedding
from spikediff.layers.embeddings import embed_classes as embed_classes
from spikediff.layers.embeddings import one_or_each as one_or_each
from spikediff.layers.norm import ThresholdNorm as ThresholdNorm
from spikediff.layers.norm import running_statistics as running_statistics
from spikediff.layers.temporal_scaling import TemporalScaling as TemporalScaling
from spikediff.layers.time import WindowDropout as WindowDropout
from spikediff.layers.time import fold_time as fold_time
from spikediff.layers.time import join_channels as join_channels
from spikediff.layers.time import nearest_upsample as nearest_upsample
from spikediff.layers.time import over_time as over_time
from spikediff.layers.time import unfold_time as unfold_time
