"""Seeing the spikes: an instrument that observes neurons, and pictures of what it saw."""

from spikediff.inspection.page import write_report
from spikediff.inspection.record import SpikeRecord
from spikediff.inspection.recorder import SpikeRecorder

__all__ = ["SpikeRecord", "SpikeRecorder", "write_report"]
