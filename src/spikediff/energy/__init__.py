"""Instruments: they observe a model that does not know of them."""

from spikediff.energy.accounting import ACCOUNTINGS
from spikediff.energy.audit import Audit, Finding, audit
from spikediff.energy.comparison import Comparison, compare, measure_differences
from spikediff.energy.costs import COST_TABLES, CostTable, Traffic, load_costs
from spikediff.energy.ledger import Cell
from spikediff.energy.meter import EnergyMeter
from spikediff.energy.report import SPIKES_PER_SYNAPSE_LIMITS, EnergyReport

__all__ = [
    "ACCOUNTINGS",
    "COST_TABLES",
    "SPIKES_PER_SYNAPSE_LIMITS",
    "Audit",
    "Cell",
    "Comparison",
    "CostTable",
    "EnergyMeter",
    "EnergyReport",
    "Finding",
    "Traffic",
    "audit",
    "compare",
    "load_costs",
    "measure_differences",
]
