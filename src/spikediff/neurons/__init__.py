"""Spiking neurons: pure functions of a window of currents, and thin modules around them.

A module that receives a window `[T, ...]` starts from a fresh state and keeps nothing; a stream
calls `step(current, state) -> (spike, state)`.
"""

from spikediff.neurons.dynamics import Dynamics as Dynamics
from spikediff.neurons.dynamics import NeuronState as NeuronState
from spikediff.neurons.dynamics import carry_nan as carry_nan
from spikediff.neurons.dynamics import charge as charge
from spikediff.neurons.dynamics import fire as fire
from spikediff.neurons.dynamics import reset as reset
from spikediff.neurons.dynamics import spike as spike
from spikediff.neurons.integer import IntegerNeuron as IntegerNeuron
from spikediff.neurons.integer import count_spikes as count_spikes
from spikediff.neurons.integrate_and_fire import IF as IF
from spikediff.neurons.integrate_and_fire import LIF as LIF
from spikediff.neurons.integrate_and_fire import IntegrateAndFire as IntegrateAndFire
from spikediff.neurons.integrate_and_fire import ParametricLIF as ParametricLIF
from spikediff.neurons.integrate_and_fire import SignedIF as SignedIF
from spikediff.neurons.layer import CountNeuron as CountNeuron
from spikediff.neurons.layer import Memory as Memory
from spikediff.neurons.layer import NeuronLayer as NeuronLayer
from spikediff.neurons.layer import SpikeEmitter as SpikeEmitter
from spikediff.neurons.layer import unroll as unroll
from spikediff.neurons.scan import as_operations as as_operations
from spikediff.neurons.scan import membranes as membranes
from spikediff.neurons.scan import scan as scan
from spikediff.neurons.scan import takes_operations as takes_operations
from spikediff.neurons.scan import window as window
from spikediff.neurons.surrogate import SURROGATES as SURROGATES
from spikediff.neurons.surrogate import Rectangular as Rectangular
from spikediff.neurons.surrogate import make_surrogate as make_surrogate

NEURONS: dict[str, type[NeuronLayer]] = {
    "if": IF,
    "lif": LIF,
    "plif": ParametricLIF,
    "signed_if": SignedIF,
}
