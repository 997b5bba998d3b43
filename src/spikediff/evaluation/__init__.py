"""Measuring what was generated."""

from spikediff.evaluation.nearest import Nearest, nearest_images
from spikediff.evaluation.recognisability import ImageJudge, Recognised

__all__ = ["ImageJudge", "Nearest", "Recognised", "nearest_images"]
