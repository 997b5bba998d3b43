"""Seeing the spikes: an instrument that observes neurons, and pictures of what it saw."""

from spikediff.inspection.page import write_report
from spikediff.inspection.record import LayerRecord, SpikeRecord, Window
from spikediff.inspection.recorder import SpikeRecorder

__all__ = [
    "LayerRecord",
    "SpikeRecord",
    "SpikeRecorder",
    "Window",
    "write_report",
]
