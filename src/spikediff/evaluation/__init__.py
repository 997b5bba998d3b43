"""Measuring generated images.

A feature network turns images into features; a metric compares two sets of features:

    network = load_features("classifier", dataset=load_images("digits"))
    real, fake = (extract(network, images).features for images in (test_images, generated_images))
    frechet_distance(real, fake)
"""

from spikediff.evaluation.class_scores import (
    ClassAgreement,
    InceptionScore,
    class_agreement,
    inception_score,
)
from spikediff.evaluation.features import (
    FEATURES,
    Activations,
    FeatureNetwork,
    extract,
    load_features,
    module_features,
)
from spikediff.evaluation.frechet import Moments, RunningMoments, TooFewSamples, frechet_distance
from spikediff.evaluation.kernel import KernelDistance, kernel_distance
from spikediff.evaluation.metrics import METRICS, Metric
from spikediff.evaluation.neighbours import (
    Nearest,
    PrecisionRecall,
    nearest_images,
    precision_recall,
)
from spikediff.evaluation.reconstruction import mse, ssim

__all__ = [
    "FEATURES",
    "METRICS",
    "Activations",
    "ClassAgreement",
    "FeatureNetwork",
    "InceptionScore",
    "KernelDistance",
    "Metric",
    "Moments",
    "Nearest",
    "PrecisionRecall",
    "RunningMoments",
    "TooFewSamples",
    "class_agreement",
    "extract",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "load_features",
    "module_features",
    "mse",
    "nearest_images",
    "precision_recall",
    "ssim",
]
