"""Our own system: trained with integer spike counts, run with spikes."""

from spikediff.systems.integer.compiled import CompiledIntegerUNet
from spikediff.systems.integer.deployment import (
    EXECUTIONS,
    DeployedIntegerUNet,
    KeptSums,
    to_integer,
)
from spikediff.systems.integer.network import IntegerSpikingUNet, IntegerUNetOutput

__all__ = [
    "EXECUTIONS",
    "CompiledIntegerUNet",
    "DeployedIntegerUNet",
    "IntegerSpikingUNet",
    "IntegerUNetOutput",
    "KeptSums",
    "to_integer",
]
