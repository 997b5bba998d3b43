"""Ways to run the scan over spiking steps; `reference` is the one that defines the answer."""

from spikediff.neurons.kernels.choice import COMPILED as COMPILED
from spikediff.neurons.kernels.choice import kernel_for as kernel_for
from spikediff.neurons.kernels.choice import using as using
