"""Ways to run the scan over spiking steps; `reference` is the one that defines the answer."""

from spikediff.neurons.kernels.choice import COMPILED, KERNELS, kernel_for, using

__all__ = [
    "COMPILED",
    "KERNELS",
    "kernel_for",
    "using",
]
