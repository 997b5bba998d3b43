"""spikediff: train, convert, sample, measure and export spiking diffusion models.

Importing the package loads nothing heavy; each room is imported by name, for example
`from spikediff.models import SpikingUNet`.
"""

__version__ = "0.1.0"
