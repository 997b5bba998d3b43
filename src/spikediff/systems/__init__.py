"""Whole systems, one folder each."""

from spikediff.systems.integer import DeployedIntegerUNet, IntegerSpikingUNet

__all__ = ["DeployedIntegerUNet", "IntegerSpikingUNet"]
