"""Spiking neurons: pure functions of a window of currents, and thin modules around them.

A module that receives a window `[T, ...]` starts from a fresh state and keeps nothing; a stream
calls `step(current, state) -> (spike, state)`.
"""

from spikediff.neurons.dynamics import (
    Dynamics,
    NeuronState,
    carry_nan,
    charge,
    fire,
    reset,
    spike,
)
from spikediff.neurons.emitter import CountNeuron, SpikeEmitter, UnitTrace, unroll
from spikediff.neurons.integer import IntegerNeuron, count_spikes
from spikediff.neurons.integrate_and_fire import (
    IF,
    LIF,
    IntegrateAndFire,
    ParametricLIF,
    SignedIF,
)
from spikediff.neurons.layer import Memory, NeuronLayer
from spikediff.neurons.scan import as_operations, membranes, scan, window
from spikediff.neurons.surrogate import (
    SURROGATES,
    ATan,
    Rectangular,
    Sigmoid,
    Surrogate,
    Triangular,
    make_surrogate,
)

NEURONS: dict[str, type[NeuronLayer]] = {
    "if": IF,
    "lif": LIF,
    "plif": ParametricLIF,
    "signed_if": SignedIF,
}

__all__ = [
    "IF",
    "LIF",
    "NEURONS",
    "SURROGATES",
    "ATan",
    "CountNeuron",
    "Dynamics",
    "IntegerNeuron",
    "IntegrateAndFire",
    "Memory",
    "NeuronLayer",
    "NeuronState",
    "ParametricLIF",
    "Rectangular",
    "Sigmoid",
    "SignedIF",
    "SpikeEmitter",
    "Surrogate",
    "Triangular",
    "UnitTrace",
    "as_operations",
    "carry_nan",
    "charge",
    "count_spikes",
    "fire",
    "make_surrogate",
    "membranes",
    "reset",
    "scan",
    "spike",
    "unroll",
    "window",
]
