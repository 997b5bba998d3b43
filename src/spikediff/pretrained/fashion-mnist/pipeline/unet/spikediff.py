# Lets diffusers find a class of the package spikediff.
from spikediff import AnyNetwork, DeployedIntegerUNet

__all__ = ["AnyNetwork", "DeployedIntegerUNet"]
