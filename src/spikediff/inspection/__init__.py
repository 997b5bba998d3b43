"""Seeing the spikes: an instrument that observes neurons, and pictures of what it saw."""

from spikediff.inspection.record import LayerRecord, SpikeRecord, Window
from spikediff.inspection.recorder import SpikeRecorder
from spikediff.inspection.report import write_report

__all__ = ["LayerRecord", "SpikeRecord", "SpikeRecorder", "Window", "write_report"]
