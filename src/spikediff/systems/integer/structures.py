"""The structures that the C kernels read, field by field as `spikediff/native` declares them."""

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, c_int64, c_void_p

LISTENERS = 2
LISTED = 16  # quads that are listed at a time
BY_DENSITY, DENSE, EVENTS = range(3)  # the ways of a convolution


class Listener(ctypes.Structure):
    """`listener` of count_synapse.h, field by field, and so are the others."""

    _fields_ = [
        ("thresholds", c_void_p),
        *((name, c_int64) for name in ("levels", "counts", "pixel_bytes")),
    ]


class Outlet(ctypes.Structure):
    """What becomes of the sums of a layer."""

    _fields_ = [
        *((name, c_void_p) for name in ("left", "bias", "of_timestep", "of_class")),
        *((name, c_int64) for name in ("table_left", "channels")),
        *((name, c_int64) for name in ("residual", "current", "listeners")),
        ("listener", Listener * LISTENERS),
    ]


class SynapseLayer(ctypes.Structure):
    """A convolution of counts."""

    _fields_ = [
        *((name, c_void_p) for name in ("sources", "weights", "raised")),
        *((name, c_int64) for name in ("in_height", "in_width", "doubled")),
        *((name, c_int64) for name in ("kernel", "stride", "padding")),
        *((name, c_int64) for name in ("out_height", "out_width", "quads")),
        *((name, c_int64) for name in ("counts", "kept_counts", "kept_sums", "way")),
        ("out", Outlet),
    ]


class StemLayer(ctypes.Structure):
    """The convolution of the image."""

    _fields_ = [
        *((name, c_void_p) for name in ("sources", "weights", "right")),
        *((name, c_int64) for name in ("pixels", "taps", "pairs", "image")),
        ("out", Outlet),
    ]


class Network(ctypes.Structure):
    """Everything that a call needs."""

    _fields_ = [
        ("places", c_void_p),
        *((name, c_int64) for name in ("pixels", "values", "answer", "answer_channels")),
        *((name, c_int64) for name in ("fraction_bits", "image_fraction_bits")),
        *((name, c_int64) for name in ("memory_bytes", "state_bytes")),
        *(
            (name, c_int64)
            for name in ("most_listed", "most_columns", "most_rows", "most_channels")
        ),
        ("synapses", c_int64),
        ("synapse", POINTER(SynapseLayer)),
        ("stem", StemLayer),
    ]


def finish(network: Network, layers: Sequence[SynapseLayer]) -> None:
    """Give a network its layers, and the room that their lists take."""
    network.synapses, network.synapse = len(layers), (SynapseLayer * len(layers))(*layers)
    for layer in layers:
        columns = layer.in_width << layer.doubled
        most = {
            "most_listed": layer.in_height * (columns * layer.quads + LISTED),
            "most_columns": layer.in_height * (columns + 1),
            "most_rows": layer.kernel**2 * layer.quads,
            "most_channels": max(layer.out.channels, network.stem.out.channels),
        }
        for name, size in most.items():
            setattr(network, name, max(size, getattr(network, name)))
