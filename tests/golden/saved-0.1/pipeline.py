# Lets diffusers find a class of the package spikediff.
from spikediff.pipelines import VAEPipeline

__all__ = ["VAEPipeline"]
