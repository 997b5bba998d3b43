"""Nearest images and recognition, on answers that are known."""

import pytest
import torch

from spikediff.data import load_images, to_model_range
from spikediff.errors import UserError
from spikediff.evaluation import ImageJudge, nearest_images


def test_a_copy_has_distance_zero_and_a_shift_its_size():
    training = torch.rand(50, 1, 8, 8)
    found = nearest_images(training[[7, 3]], training)
    assert found.index.tolist() == [7, 3]
    assert found.distance.tolist() == [0.0, 0.0]
    shifted = nearest_images(training[[7]] + 0.01, training)
    assert shifted.distance.item() == pytest.approx(0.01, rel=1e-4)


@pytest.fixture(scope="module")
def digits():
    return load_images("digits", "train"), load_images("digits", "test")


def test_judge_knows_real_digits_and_not_noise(digits):
    train, test = digits
    judge = ImageJudge(to_model_range(train.stack()), train.labels)
    real = to_model_range(test.stack())
    accuracy = (judge.probabilities(real).argmax(1) == test.labels).float().mean()
    assert accuracy > 0.94
    recognised = judge.recognise(real)
    assert recognised.rate > 0.85
    assert recognised.every_class
    assert sum(recognised.counts) == len(test)
    grey = torch.zeros(10, 1, 8, 8)
    assert not judge.recognise(grey).every_class


def test_labels_are_needed():
    with pytest.raises(UserError, match="no labels"):
        ImageJudge(torch.zeros(2, 1, 2, 2), None)
