"""Instruments: they observe a model that does not know of them."""

from spikediff.energy.firing_rate import FiringRates

__all__ = ["FiringRates"]
