"""Kernels for the scan over spiking steps; `reference` defines the correct result."""

from spikediff.neurons.kernels.choice import COMPILED as COMPILED
from spikediff.neurons.kernels.choice import kernel_for as kernel_for
from spikediff.neurons.kernels.choice import using as using
