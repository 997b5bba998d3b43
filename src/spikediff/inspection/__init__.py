"""Inspection: a recorder of neurons, and plots of its records."""

from spikediff.inspection.page import write_report
from spikediff.inspection.record import SpikeRecord
from spikediff.inspection.recorder import SpikeRecorder

__all__ = ["SpikeRecord", "SpikeRecorder", "write_report"]
