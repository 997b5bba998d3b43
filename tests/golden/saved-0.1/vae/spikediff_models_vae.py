# Lets diffusers find a class of the package spikediff.
from spikediff.models import VAE

__all__ = ["VAE"]
