"""Nearest images, on answers that are known."""

import pytest
import torch

from spikediff.evaluation.neighbours import nearest_images


def test_a_copy_has_distance_zero_and_a_shift_its_size():
    training = torch.rand(50, 1, 8, 8)
    found = nearest_images(training[[7, 3]], training)
    assert found.index.tolist() == [7, 3]
    assert found.distance.tolist() == [0.0, 0.0]
    shifted = nearest_images(training[[7]] + 0.01, training)
    assert shifted.distance.item() == pytest.approx(0.01, rel=1e-4)
