"""Our own system: integer-trained, spike-driven diffusion (docs/systems/integer.md)."""

from spikediff.systems.integer.network import IntegerSpikingUNet, IntegerUNetOutput

__all__ = ["IntegerSpikingUNet", "IntegerUNetOutput"]
