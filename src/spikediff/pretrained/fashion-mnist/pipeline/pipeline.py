# Lets diffusers find a class of the package spikediff.
from spikediff import SpikingDiffusionPipeline

__all__ = ["SpikingDiffusionPipeline"]
