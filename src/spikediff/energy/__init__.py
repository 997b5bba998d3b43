"""Energy: count a model's operations from outside, and price them by a cost table."""

from spikediff.energy.accounting import ACCOUNTINGS
from spikediff.energy.audit import audit
from spikediff.energy.comparison import Comparison, compare, measure_differences
from spikediff.energy.costs import COST_TABLES, CostTable, load_costs
from spikediff.energy.meter import EnergyMeter
from spikediff.energy.report import SPIKES_PER_SYNAPSE_LIMITS

__all__ = [
    "ACCOUNTINGS",
    "COST_TABLES",
    "SPIKES_PER_SYNAPSE_LIMITS",
    "Comparison",
    "CostTable",
    "EnergyMeter",
    "audit",
    "compare",
    "load_costs",
    "measure_differences",
]
