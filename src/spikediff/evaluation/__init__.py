"""Measuring what was generated.

Distances compare sets of features; a feature network turns images into features:

    network = load_features("classifier", dataset=load_images("digits"))
    real, fake = (extract(network, images).features for images in (test_images, generated_images))
    frechet_distance(real, fake)
"""

from spikediff.evaluation.features import (
    FEATURES,
    Activations,
    FeatureNetwork,
    extract,
    load_features,
    module_features,
)
from spikediff.evaluation.frechet import Moments, RunningMoments, TooFewSamples, frechet_distance
from spikediff.evaluation.inception_score import InceptionScore, inception_score
from spikediff.evaluation.kernel import KernelDistance, kernel_distance
from spikediff.evaluation.neighbours import (
    Nearest,
    PrecisionRecall,
    nearest_images,
    precision_recall,
)
from spikediff.evaluation.recognition import ClassAgreement, ImageJudge, Recognised, class_agreement
from spikediff.evaluation.reconstruction import mse, ssim

__all__ = [
    "FEATURES",
    "Activations",
    "ClassAgreement",
    "FeatureNetwork",
    "ImageJudge",
    "InceptionScore",
    "KernelDistance",
    "Moments",
    "Nearest",
    "PrecisionRecall",
    "Recognised",
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
