"""Threshold guidance: sampling with other thresholds than the network was trained with.

Inside `with threshold_guidance(model, 0.997):` every threshold of the model is 0.997 times its own.
"""

from spikediff.guidance.plots import plot_curve
from spikediff.guidance.search import (
    NO_GUIDANCE,
    Budget,
    Gain,
    GuidanceCurve,
    GuidanceSearch,
    search_scale,
)
from spikediff.guidance.text import parse_numbers, parse_scale
from spikediff.guidance.threshold import Scale, scale_potentials, threshold_guidance

__all__ = [
    "NO_GUIDANCE",
    "Budget",
    "Gain",
    "GuidanceCurve",
    "GuidanceSearch",
    "Scale",
    "parse_numbers",
    "parse_scale",
    "plot_curve",
    "scale_potentials",
    "search_scale",
    "threshold_guidance",
]
