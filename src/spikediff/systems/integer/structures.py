"""The structures that the C kernels read, field by field as `spikediff/native` declares them."""

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, c_int64, c_void_p

LISTENERS = 2
LISTED = 16  # quads that are listed at a time
BY_DENSITY, DENSE, EVENTS = range(3)  # the ways of a convolution


def _pointers(names: str) -> list[tuple[str, type]]:
    return [(name, c_void_p) for name in names.split()]


def _numbers(names: str) -> list[tuple[str, type]]:
    return [(name, c_int64) for name in names.split()]


class Listener(ctypes.Structure):
    """`listener` of count_synapse.h, field by field, like the structures below."""

    _fields_ = [*_pointers("thresholds"), *_numbers("levels counts pixel_bytes")]


class Outlet(ctypes.Structure):
    """What happens to the sums of a layer."""

    _fields_ = [
        *_pointers("left bias of_timestep of_class"),
        *_numbers("table_left channels residual current listeners"),
        ("listener", Listener * LISTENERS),
    ]


class SynapseLayer(ctypes.Structure):
    """A convolution of counts."""

    _fields_ = [
        *_pointers("sources weights raised"),
        *_numbers("in_height in_width doubled kernel stride padding out_height out_width quads"),
        *_numbers("counts kept_counts kept_sums way"),
        ("out", Outlet),
    ]


class StemLayer(ctypes.Structure):
    """The convolution of the image."""

    _fields_ = [
        *_pointers("sources weights right"),
        *_numbers("pixels taps pairs image"),
        ("out", Outlet),
    ]


class Network(ctypes.Structure):
    """Everything that a call needs."""

    _fields_ = [
        *_pointers("places"),
        *_numbers("pixels values answer answer_channels fraction_bits image_fraction_bits"),
        *_numbers("memory_bytes state_bytes most_listed most_columns most_rows most_channels"),
        *_numbers("synapses"),
        ("synapse", POINTER(SynapseLayer)),
        ("stem", StemLayer),
    ]


def finish(network: Network, layers: Sequence[SynapseLayer]) -> None:
    """Set a network's layers, and the space for their lists."""
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
